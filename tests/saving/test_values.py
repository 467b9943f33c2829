"""Arguments of calls as JSON."""

import json

import torch

from fxprune.saving.values import Decoder, encode


def test_values_as_json() -> None:
    values = (
        None,
        True,
        -3,
        0.1,
        float("inf"),
        float("nan"),
        1 + 2j,
        "same",
        [1, (2, [3.5])],
        {"a": 1},
        slice(None, 3, 2),
        Ellipsis,
        torch.bfloat16,
        torch.channels_last,
        torch.strided,
        torch.device("cuda", 1),
        (),
    )
    text = json.dumps(encode(values), allow_nan=False)
    found = Decoder({}, torch.device("cpu"), torch.device("cpu"))(json.loads(text))
    assert repr(found) == repr(values)
    moved = Decoder({}, torch.device("cuda"), torch.device("cpu"))(json.loads(text))
    assert moved[-2] == torch.device("cpu")

"""Files of weights and examples named on the command line: broken ones run nothing."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fxprune.cli import models, sources
from fxprune.errors import SourceError
from tests.saving.hostile import Runs, broken


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt", "x.npz", "packed.npz"])
def test_files_named_on_the_command_line(name: str, folder: Path) -> None:
    """Weights and arrays that are damaged either load or are named in a SourceError."""
    state, array = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}, np.arange(12.0).reshape(3, 4)
    if name.endswith(".safetensors"):
        save_file(state, name)
    elif name.endswith(".pt"):
        torch.save(state, name, _use_new_zipfile_serialization=name != "old.pt")
    else:
        (np.savez if name == "x.npz" else np.savez_compressed)(name, x=array)

    def read() -> Any:
        path = Path(name)
        return (
            sources.arrays(path, sources.ImageOptions(), 2, None)
            if name.endswith(".npz")
            else models.state_dict(path)
        )

    whole = Path(name).read_bytes()
    read()
    refusals = 0
    for content in broken(whole):
        Path(name).write_bytes(content)
        try:
            read()
        except SourceError as error:
            assert name in str(error)  # noqa: PT017
            refusals += 1
    assert refusals >= 12


def test_weights_that_are_a_pickle_run_nothing(folder: Path) -> None:
    torch.save({"weight": Runs()}, "archive.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Runs()))
    np.savez("objects.npz", x=np.array([Runs()], dtype=object))
    for name in ("archive.pt", "plain.pt"):
        with pytest.raises(SourceError, match=name):
            models.state_dict(Path(name))
    with pytest.raises(SourceError, match="plain arrays"):
        sources.arrays(Path("objects.npz"), sources.ImageOptions(), 2, None)

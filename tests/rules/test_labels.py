"""Labels of channels: reshaped as any tensor, and told apart."""

import pytest
import torch

from fxprune.rules.labels import distinct, reshaped, squash, varying


@pytest.mark.parametrize(
    ("shape", "varies", "target"),
    [
        ((2, 3, 4, 5), {1}, (2, 3, 20)),
        ((2, 3, 4, 5), {2}, (2, 3, 20)),
        ((2, 3, 4, 5), {0, 3}, (6, 20)),
        ((2, 12, 1), {1}, (2, 1, 3, 4)),
        ((2, 1, 6), {2}, (12, 1, 1)),
        ((1, 1), set(), ()),
        ((0, 3), {1}, (3, 0)),
    ],
)
def test_labels_are_reshaped_as_any_tensor(
    shape: tuple[int, ...], varies: set[int], target: tuple[int, ...]
) -> None:
    thin = [size if d in varies else 1 for d, size in enumerate(shape)]
    labels = torch.arange(torch.Size(thin).numel()).view(thin).expand(shape)
    found = reshaped(labels, target)
    assert torch.equal(found, labels.reshape(target))
    assert varying(squash(found)) == varying(squash(labels.reshape(target)))


@pytest.mark.parametrize("spread", [1, 1000, 10**9])
def test_distinct_labels_ascend(spread: int) -> None:
    labels = torch.randint(1, 50, (40, 70), generator=torch.Generator().manual_seed(0)) * spread
    assert distinct(labels).tolist() == labels.unique().tolist()

"""3-D networks of one and two branches, and the voxel grids they read."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from benchmarks.datasets.voxels import ELEMENTS, affinity, dataset, grid, structure
from benchmarks.models.nets3d import CNN3D, Paired3D

SIDE, WIDTHS = 18, (6, 8, 8, 10)


def pairs(count: int, branches: int) -> list[tuple[Tensor, ...]]:
    grids = [dataset(count, seed, SIDE)[0] for seed in range(branches)]
    return list(zip(*(g.split(12) for g in grids), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "branches"),
    [
        (CNN3D(5, SIDE, WIDTHS, 16), 1),
        (Paired3D(5, SIDE, WIDTHS, 16, shared=True, join="subtract"), 2),
        (Paired3D(5, SIDE, WIDTHS, 16, shared=False, join="cat"), 2),
    ],
    ids=["one", "siamese", "separate"],
)
def test_networks_shrink_and_keep_masked_equivalence(net: nn.Module, branches: int) -> None:
    loader = pairs(24, branches)
    small = fxprune.compress(net, loader, flops=0.6, method="magnitude", progress=False)
    before, after = fxprune.report(small).flops
    assert after <= 0.6 * before
    with torch.no_grad():
        torch.testing.assert_close(
            fxprune.masked(net, small)(*loader[0]), small(*loader[0]), rtol=1e-4, atol=1e-5
        )


def test_grids_hold_every_atom_in_its_channel() -> None:
    atoms = structure(3, reach=6.0)
    made = grid(atoms, side=41, spacing=0.5)
    assert made.shape == (len(ELEMENTS), 41, 41, 41)
    # The density of an atom integrates to (2 pi sigma^2)^1.5; at most what lies outside the grid
    # is missing.
    counts = torch.tensor([(atoms.kinds == k).sum() for k in range(len(ELEMENTS))])
    found = made.sum((1, 2, 3)) * 0.5**3 / (2 * torch.pi) ** 1.5
    assert (found <= counts + 1e-3).all()
    assert (found >= 0.8 * counts).all()
    assert not torch.equal(structure(4).positions[:5], structure(3).positions[:5])


def test_the_affinity_depends_on_contacts_only() -> None:
    """It does not change when everything is turned, and vanishes when the ligand is far away."""
    atoms = structure(5)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(
        affinity(type(atoms)(atoms.positions @ turn, atoms.kinds)),
        affinity(atoms),
        rtol=1e-4,
        atol=1e-5,
    )
    apart = atoms.positions + 100.0 * (atoms.kinds == ELEMENTS.index("ligand"))[:, None]
    assert float(affinity(type(atoms)(apart, atoms.kinds)).abs()) < 1e-6

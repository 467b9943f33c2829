"""Protein-like pockets with a ligand, as grids of Gaussian-smeared atoms: data of the kind that
ATOM3D's 3-D networks read.

The structures are synthetic: chains of residues (backbone N, C, C, O and a side chain) that walk
around a pocket, and a ligand of bonded atoms inside it. The affinity is a pair potential of the
contacts between the two, so that it depends on types and distances as a real one does; it is no
model of chemistry.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ELEMENTS = ("C", "N", "O", "S", "ligand")
"""Channels of a grid: the protein's carbon, nitrogen, oxygen and sulphur, and every atom of the
ligand.
"""
LIGAND = ELEMENTS.index("ligand")
BACKBONE = (1, 0, 0, 2)
BOND = 1.5
"""Distance of bonded atoms in angstrom."""
SIGMA = 1.0
"""Standard deviation of an atom's density in angstrom."""
CONTACT = torch.tensor([0.2, 1.0, -1.2, 0.6])
"""Strength of a contact between the ligand and a carbon, nitrogen, oxygen or sulphur."""


@dataclass(frozen=True)
class Structure:
    """Atoms: positions (N, 3) in angstrom around the pocket's center, kinds (N,) as indices of
    `ELEMENTS`.
    """

    positions: Tensor
    kinds: Tensor


def _walk(
    steps: int, start: Tensor, inner: float, outer: float, generator: torch.Generator
) -> Tensor:
    """(steps, 3): bonded positions that stay between two spheres around the origin."""
    at, heading = start, torch.randn(3, generator=generator)
    path = []
    for _ in range(steps):
        heading = heading / heading.norm() + 0.8 * torch.randn(3, generator=generator)
        at = at + BOND * heading / heading.norm()
        radius = at.norm().clamp_min(1e-3)
        at = at * radius.clamp(inner, outer) / radius
        path.append(at)
    return torch.stack(path)


def structure(seed: int, reach: float = 10.0) -> Structure:
    """A pocket of a few chains around a ligand.

    Args:
        seed: the same seed gives the same structure.
        reach: radius of the pocket's outside in angstrom.
    """
    generator = torch.Generator().manual_seed(seed)
    positions, kinds = [], []
    for _ in range(int(torch.randint(4, 9, (1,), generator=generator))):
        start = torch.randn(3, generator=generator)
        chain = _walk(24, 0.6 * reach * start / start.norm(), 0.4 * reach, reach, generator)
        side = torch.randint(0, 20, (len(chain),), generator=generator)
        backbone = torch.tensor(BACKBONE).repeat(len(chain) // len(BACKBONE))
        # One atom in ten is a sulphur, and some side chains end in another element than the
        # backbone's.
        kinds.append(torch.where(side < 2, 3, torch.where(side < 8, side % 3, backbone)))
        positions.append(chain)
    ligand = _walk(
        int(torch.randint(6, 20, (1,), generator=generator)),
        torch.zeros(3),
        0.0,
        0.45 * reach,
        generator,
    )
    return Structure(
        torch.cat([*positions, ligand]), torch.cat([*kinds, torch.full((len(ligand),), LIGAND)])
    )


def affinity(atoms: Structure) -> Tensor:
    """Sum over contacts between ligand and protein of a strength by element, falling off within a
    few angstrom; scalar.
    """
    inside = atoms.kinds == LIGAND
    distance = torch.cdist(atoms.positions[inside], atoms.positions[~inside])
    return (CONTACT[atoms.kinds[~inside]] * torch.exp(-((distance / 3.0) ** 2))).sum() / 10


def grid(atoms: Structure, side: int = 41, spacing: float = 1.0) -> Tensor:
    """(elements, side, side, side) float32: the density of every kind of atom.

    Args:
        atoms: around the origin, where the grid's center lies.
        side: voxels along an edge.
        spacing: edge of a voxel in angstrom.
    """
    ticks = (torch.arange(side) - (side - 1) / 2) * spacing
    near = torch.exp(-((atoms.positions[:, :, None] - ticks) ** 2) / (2 * SIGMA**2))
    made = []
    for kind in range(len(ELEMENTS)):
        x, y, z = near[atoms.kinds == kind].unbind(1)
        made.append(torch.einsum("ax,ay,az->xyz", x, y, z))
    return torch.stack(made)


def dataset(count: int, seed: int, side: int = 41, spacing: float = 1.0) -> tuple[Tensor, Tensor]:
    """Grids (count, 5, side, side, side) and affinities (count,); no structure is shared between
    different seeds.
    """
    atoms = [structure(seed * 1_000_003 + i, reach=0.5 * side * spacing) for i in range(count)]
    return torch.stack([grid(a, side, spacing) for a in atoms]), torch.stack(
        [affinity(a) for a in atoms]
    )

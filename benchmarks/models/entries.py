"""The models that the coverage commands are asked for."""

from collections.abc import Iterator
from itertools import chain

from benchmarks.models import nets3d, zoo, zoo_detectors, zoo_transformers
from benchmarks.models.entry import Entry


def entries(
    torchvision: bool,
    timm: int,
    transformers: bool,
    yolo: bool,
    detection: bool,
    voxels: bool,
    most: float,
    only: str = "",
) -> Iterator[Entry]:
    """The models asked for, the quick ones first.

    Args:
        timm: of how many families.
        most: million parameters.
        only: parts of names, separated by commas; a model's name contains one of them.
    """
    everything = chain(
        zoo_transformers.transformers_models() if transformers else (),
        nets3d.models() if voxels else (),
        zoo_detectors.yolo(most) if yolo else (),
        zoo_detectors.detection(most) if detection else (),
        zoo.torchvision_models(most) if torchvision else (),
        zoo.timm_models(timm, most) if timm else (),
    )
    return (e for e in everything if any(part in e.name for part in only.split(",")))

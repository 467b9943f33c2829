"""Pack the demo's images: `python -m benchmarks.make_demo_data` writes
fxprune/demo/fashion_mnist.npz.

Calibration images come from the end of the training file, which no network is trained on;
evaluation images from the test file.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.datasets.images import DEBIAN, raw
from fxprune.demo.data import FOLDER


def main(
    calibration: int = 1000,
    evaluation: int = 5000,
    data: Annotated[Path, typer.Option(help="folder with the four Fashion-MNIST files")] = DEBIAN,
    out: Path = FOLDER / "fashion_mnist.npz",
) -> None:
    """Keep the first images of the calibration pool and of the test set, uint8, with the test
    labels.
    """
    pool, _ = raw("calibration", data)
    images, labels = raw("test", data)
    np.savez_compressed(
        out, calibration=pool[:calibration], images=images[:evaluation], labels=labels[:evaluation]
    )
    print(
        f"{out}: {calibration} calibration and {evaluation} evaluation images, "
        f"{out.stat().st_size} bytes"
    )


if __name__ == "__main__":
    typer.run(main)

"""The images that runs have drawn from noise, collected on one sheet."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from analysis.data.logs import ExperimentError
from analysis.drawing import style
from analysis.papers.coverage import Coverage
from analysis.papers.figure_curves import finish

Image = NDArray[Any]

WIDTH = 8.6
"""Width of an image in inches; its height follows."""

HOLE = 0.7
"""Height of an empty place in inches."""


def draw(coverage: Coverage, stem: Path) -> None:
    """Write the sheet to `stem`.svg, .pdf and .png, one row per cell.

    Raises:
        ExperimentError: an image cannot be read.
    """
    target = coverage.target
    images: list[Image | None] = []
    names, reasons = [], []
    for row in coverage.experiment.runs.to_dict("records"):
        names.append(f"{row['task']}, seed {row['seed']}")
        file = row["path"] / target.file if row["status"] == "done" else None
        if file is not None and file.exists():
            images.append(_read(file))
            reasons.append("")
            continue
        images.append(None)
        lack = f"no {target.file}: python -m {target.tool} {row['path']}"
        reasons.append(row["status"] if file is None else lack)
    heights = [
        HOLE if image is None else WIDTH * image.shape[0] / image.shape[1] for image in images
    ]
    with style.figure_style():
        size = WIDTH, sum(heights) + 0.3 * len(heights)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, image, name, reason in zip(axes, images, names, reasons, strict=True):
            axis.set_title(name, fontsize=9)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            if image is None:
                axis.text(0.5, 0.5, f"— ({reason})", ha="center", va="center", fontsize=8)
            else:
                axis.imshow(image, interpolation="nearest", aspect="auto")
        made = f"Each picture: python -m {target.tool} RUN, on the run that it is named after."
        finish(figure, coverage, stem, [made])


def _read(file: Path) -> Image:
    try:
        return np.asarray(imread(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise ExperimentError(f"{file} is not a picture: {' '.join(str(error).split())}") from error

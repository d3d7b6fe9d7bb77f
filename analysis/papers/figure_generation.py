"""The pictures that runs have drawn from noise, collected on one sheet."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from analysis.data.load import ExperimentError
from analysis.drawing import style
from analysis.papers.coverage import Coverage
from analysis.papers.figure_curves import finish

Picture = NDArray[Any]

WIDTH = 8.6
"""Width of a picture in inches; its height follows."""

HOLE = 0.7
"""Height of an empty place in inches."""


def draw(coverage: Coverage, stem: Path) -> None:
    """Writes the sheet to `stem`.svg, .pdf and .png, one row per cell.

    Raises:
        ExperimentError: A picture cannot be read.
    """
    target = coverage.target
    pictures: list[Picture | None] = []
    names, reasons = [], []
    for row in coverage.experiment.runs.to_dict("records"):
        names.append(f"{row['task']}, seed {row['seed']}")
        file = row["path"] / target.file if row["status"] == "done" else None
        if file is not None and file.exists():
            pictures.append(_read(file))
            reasons.append("")
            continue
        pictures.append(None)
        lack = f"no {target.file}: python -m {target.tool} {row['path']}"
        reasons.append(row["status"] if file is None else lack)
    heights = [
        HOLE if picture is None else WIDTH * picture.shape[0] / picture.shape[1]
        for picture in pictures
    ]
    with style.figure_style():
        size = WIDTH, sum(heights) + 0.3 * len(heights)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, picture, name, reason in zip(axes, pictures, names, reasons, strict=True):
            axis.set_title(name, fontsize=9)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            if picture is None:
                axis.text(0.5, 0.5, f"— ({reason})", ha="center", va="center", fontsize=8)
            else:
                axis.imshow(picture, interpolation="nearest", aspect="auto")
        made = f"Each picture: python -m {target.tool} RUN, on the run that it is named after."
        finish(figure, coverage, stem, [made])


def _read(file: Path) -> Picture:
    try:
        return np.asarray(imread(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise ExperimentError(f"{file} is not a picture: {' '.join(str(error).split())}") from error

"""Images of the tasks that no simulator draws: lines and discs on a light ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
FINE = 3  # pixels drawn for each one shown, in both directions: smooth edges
GROUND = (247, 247, 244)
DARK, BLUE, ORANGE, GREY = (40, 40, 40), (0, 114, 178), (213, 94, 0), (170, 170, 170)


@dataclass(frozen=True)
class Line:
    """A polyline through `points`, `width` units wide."""

    points: Sequence[Point]
    width: float
    color: tuple[int, int, int] = DARK


@dataclass(frozen=True)
class Disc:
    """A filled circle."""

    centre: Point
    radius: float
    color: tuple[int, int, int] = DARK


def draw(
    marks: Sequence[Line | Disc], view: float, width: int, height: int, centre: Point = (0.0, 0.0)
) -> NDArray[np.uint8]:
    """Draw marks, the first one lowest.

    Args:
        marks: in units of the task, y upwards.
        view: units from the centre to the nearest edge.
        width: of the image in pixels.
        height: of the image in pixels.
        centre: what the middle of the image shows.

    Returns:
        `[height, width, 3]`, top row first.
    """
    large = (width * FINE, height * FINE)
    image = Image.new("RGB", large, GROUND)
    pen, scale = ImageDraw.Draw(image), min(large) / (2.0 * view)

    def place(point: Point) -> Point:
        x, y = (value - middle for value, middle in zip(point, centre, strict=True))
        return large[0] / 2.0 + scale * x, large[1] / 2.0 - scale * y

    def disc(at: Point, radius: float, color: tuple[int, int, int]) -> None:
        (x, y), r = place(at), scale * radius
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)

    for mark in marks:
        if isinstance(mark, Disc):
            disc(mark.centre, mark.radius, mark.color)
            continue
        pen.line([place(p) for p in mark.points], mark.color, max(1, round(scale * mark.width)))
        for end in (mark.points[0], mark.points[-1]):  # round ends
            disc(end, mark.width / 2.0, mark.color)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.uint8)

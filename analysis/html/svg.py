"""Small charts as SVG elements whose colours come from the page, so that they fit its theme.

A chart has a fixed width in its own units, which the page stretches to the column. Colours of
methods are classes (`method-3`) that carry the CSS variable `--color`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from matplotlib.markers import MarkerStyle

from analysis.drawing import style
from analysis.html.markup import Child, element

WIDTH = 360.0
HEIGHT = 230.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 26.0, 40.0
ROW_HEIGHT = 36.0
ROW_LEFT = 4.0
ROW_TOP = 40.0
ROW_LETTERS = 62
"""Letters of a row's text that fit into the width; the rest is cut off."""

MARKER_SIZE = 3.2
LINE_WIDTH = 1.6


@dataclass(frozen=True)
class Scale:
    """Maps the values from `low` to `high` to positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value, in units of the chart."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the positions of round values inside the range, and their texts."""
        values = style.ticks().tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        inside = (value for value in values if self.low - slack <= value <= self.high + slack)
        return [(self(value), style.thousands()(value, None)) for value in inside]


@dataclass(frozen=True)
class Panel:
    """A chart with two axes; the values of both are mapped by `x` and `y`."""

    x: Scale
    y: Scale

    @classmethod
    def over(cls, x: tuple[float, float], y: tuple[float, float]) -> "Panel":
        """Make a panel that shows the ranges `x` and `y`; an empty range is widened."""
        return cls(Scale(*_wide(x), LEFT, WIDTH - RIGHT), Scale(*_wide(y), HEIGHT - BOTTOM, TOP))

    def axes(self, x_label: str, y_label: str) -> Element:
        """Draw grid, tick texts and labels."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for position, text in self.x.ticks():
            grid = f"M{_number(position)} {TOP:g}V{bottom:g}"
            parts.append(element("path", class_="grid", d=grid))
            parts.append(_text(position, bottom + 14, text, "middle"))
        for position, text in self.y.ticks():
            grid = f"M{LEFT:g} {_number(position)}H{right:g}"
            parts.append(element("path", class_="grid", d=grid))
            parts.append(_text(LEFT - 5, position + 3.5, text, "end"))
        frame = f"M{LEFT:g} {TOP:g}V{bottom:g}H{right:g}"
        parts.append(element("path", class_="frame", d=frame))
        parts.append(_text((LEFT + right) / 2, HEIGHT - 8, x_label, "middle"))
        parts.append(_text(4, 12, y_label, "start"))
        return element("g", *parts, class_="axes", aria_hidden="true")

    def line(self, points: Iterable[tuple[float, float]], class_: str, dash: str = "") -> Element:
        """Draw a line through the points (x, y), broken where one is not finite."""
        steps, pen = [], "M"
        for x, y in points:
            if math.isfinite(y):
                steps.append(f"{pen}{_number(self.x(x))} {_number(self.y(y))}")
            pen = "L" if math.isfinite(y) else "M"
        return element("path", class_=class_, d="".join(steps), stroke_dasharray=dash or None)

    def band(self, points: Sequence[tuple[float, float, float]]) -> Element:
        """Fill between low and high of the points (x, low, high), which must be finite."""
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        places = [f"{_number(self.x(x))} {_number(self.y(y))}" for x, y in edge]
        return element("path", class_="band", d=f"M{'L'.join(places)}Z" if places else "")

    def mark(self, name: str, x: float, y: float, class_: str | None = None) -> Element:
        """Place a mark of `definitions` at a point."""
        place = {"x": _number(self.x(x)), "y": _number(self.y(y))}
        return element("use", href=f"#{name}", class_=class_, **place)


def chart(title: str, description: str, *children: Child, height: float = HEIGHT) -> Element:
    """Make the SVG of a chart, with its name and its description for those who do not see it."""
    box = f"0 0 {WIDTH:g} {height:g}"
    texts = (element("title", title), element("desc", description))
    return element("svg", *texts, *children, class_="chart", viewBox=box, role="img")


def row_chart(
    title: str, description: str, scale: Scale, label: str, rows: Sequence[Element]
) -> Element:
    """Make a chart of rows below one horizontal axis; the page may leave rows out.

    Args:
        title: name of the chart.
        description: what it shows, in a sentence.
        scale: maps values to positions.
        label: what the values are, and their unit.
        rows: what `row` returns for each row.
    """
    height = ROW_TOP + ROW_HEIGHT * len(rows)
    parts = [_text(ROW_LEFT, 11, label, "start")]
    for position, text in scale.ticks():
        grid = f"M{_number(position)} {ROW_TOP - 4:g}V{height:g}"
        parts.append(element("path", class_="grid", d=grid))
        parts.append(_text(position, ROW_TOP - 8, text, "middle"))
    axis = element("g", *parts, class_="axes", aria_hidden="true")
    for position, node in enumerate(rows):
        node.set("transform", f"translate(0 {ROW_TOP + ROW_HEIGHT * position:g})")
    return chart(title, description, axis, *rows, height=height)


def row_scale(low: float, high: float) -> Scale:
    """Map the range of a row chart's values to its width."""
    return Scale(*_wide((low, high)), ROW_LEFT + 8, WIDTH - RIGHT)


def row(text: str, *children: Child, **attributes: str) -> Element:
    """Make a row of a row chart: a line of text with bars below it."""
    shown = text if len(text) <= ROW_LETTERS else f"{text[: ROW_LETTERS - 1]}…"
    line = element("text", shown, x=f"{ROW_LEFT:g}", y="11")
    return element("g", element("title", text), line, *children, **attributes)


def bar(start: float, end: float, **attributes: str) -> Element:
    """Draw a bar of a row between two positions."""
    size = {"x": _number(start), "width": _number(max(0.0, end - start))}
    return element("rect", y="15", height="11", **size, **attributes)


def tick(position: float) -> Element:
    """Draw the line of a point estimate in a row."""
    return element("path", class_="point", d=f"M{_number(position)} 13V28")


def swatch(label: str, class_: str) -> Element:
    """Draw the sample of a method's line and marker for a legend."""
    line = element("path", class_="mean", d="M1 6H33", stroke_dasharray=dash(label) or None)
    mark = element("use", href=f"#{marker(label)}", x="17", y="6")
    box = {"viewBox": "0 0 34 12", "width": "34", "height": "12"}
    return element("svg", line, mark, class_=f"swatch {class_}", aria_hidden="true", **box)


def phase_swatch(phase: str) -> Element:
    """Draw the sample of a phase's bar for a legend."""
    sample = element("rect", width="18", height="12", class_="phase", fill=f"url(#phase-{phase})")
    box = {"viewBox": "0 0 18 12", "width": "18", "height": "12"}
    return element("svg", sample, class_="swatch", aria_hidden="true", **box)


def dash(label: str) -> str:
    """Return the dashes of a method's line in units of the chart, empty for a solid line."""
    linestyle = style.method_style(label).linestyle
    if isinstance(linestyle, str):
        return ""
    return " ".join(f"{LINE_WIDTH * part:g}" for part in linestyle[1])


def marker(label: str) -> str:
    """Return the id of a method's marker among the `definitions`."""
    return f"marker-{ord(style.method_style(label).marker)}"


def definitions(labels: Iterable[str]) -> Element:
    """Draw what the charts refer to: markers, marks of ends, and hatches of phases."""
    names = {marker(label): style.method_style(label).marker for label in labels}
    shapes = [element("path", id=name, d=_outline(kind)) for name, kind in sorted(names.items())]
    shapes.append(element("path", id="stopped", d="M-3 -3L3 3M-3 3L3 -3"))
    shapes.append(element("circle", id="running", r="3.5"))
    hatches = [
        element(
            "pattern",
            element("rect", width="6", height="6", fill=color),
            element("path", d=HATCHES[hatch], class_="hatch"),
            id=f"phase-{phase}",
            width="6",
            height="6",
            patternUnits="userSpaceOnUse",
        )
        for phase, (color, hatch) in style.PHASE_STYLES.items()
    ]
    content = element("defs", *shapes, *hatches)
    return element("svg", content, width="0", height="0", class_="definitions", aria_hidden="true")


HATCHES = {"": "", "//": "M-1 7L7 -1", "..": "M2 3H4", "xx": "M0 0L6 6M0 6L6 0"}
"""Paths in a square of side 6 for the hatches of `style.PHASE_STYLES`."""


def _outline(kind: str) -> str:
    """Return the outline of a matplotlib marker as an SVG path, straight between its corners."""
    mark = MarkerStyle(kind)
    path = mark.get_path().transformed(mark.get_transform())
    # matplotlib's y axis points up; polygons approximate curves well enough at this size.
    polygons: Any = path.to_polygons()
    size = 2 * MARKER_SIZE
    return "".join(
        "M" + "L".join(f"{_number(size * x)} {_number(-size * y)}" for x, y in polygon[:-1]) + "Z"
        for polygon in polygons
    )


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _text(x: float, y: float, text: str, anchor: str) -> Element:
    place = {"x": _number(x), "y": _number(y), "text_anchor": anchor}
    return element("text", text, **place)


def _number(value: float) -> str:
    """Return a coordinate with one decimal, which is a fraction of a pixel."""
    return f"{round(value, 1) + 0.0:g}"

"""How figures look: one style per method everywhere, and files that depend on the data only."""

import hashlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from runners.cells.files import write_atomic

Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class MethodStyle:
    """Colour, line style and marker of a method."""

    color: str
    linestyle: Dash
    marker: str


# Colours of Okabe and Ito, then of Paul Tol; line styles and markers differ too, so that the
# methods read in grey.
KNOWN: dict[str, MethodStyle] = {
    "diffsr": MethodStyle("#0072B2", "-", "o"),
    "lvrep": MethodStyle("#E69F00", (0, (5, 1.5)), "s"),
    "sac": MethodStyle("#444444", (0, (1, 1)), "^"),
    "qvpo": MethodStyle("#009E73", (0, (5, 1.5, 1, 1.5)), "D"),
    "dipo": MethodStyle("#D55E00", (0, (3, 1, 1, 1, 1, 1)), "v"),
    "polygrad": MethodStyle("#CC79A7", (0, (8, 2)), "P"),
    "td3": MethodStyle("#56B4E9", (0, (2, 1)), "X"),
    "ppo": MethodStyle("#332288", (0, (8, 1.5, 2, 1.5)), "<"),
    "qsm": MethodStyle("#882255", (0, (1, 2.5)), ">"),
    "dpmd": MethodStyle("#999933", (0, (4, 1, 1, 1, 1, 1, 1, 1)), "p"),
    "drqv2": MethodStyle("#117733", (0, (3, 1.5)), "h"),
}
# The variants of the papers' tables and ablations: lighter and darker shades of a method's colour.
_GREENS = ("#009E73", "#005F45", "#5CC6A4", "#00392A", "#A5DCC9")
VARIANTS: dict[str, MethodStyle] = {
    "ppo@spo": MethodStyle("#8C7FC4", (0, (2, 2)), "8"),
    "dipo@write_back=false": MethodStyle("#A44700", (0, (3, 1, 1, 1)), "*"),
    "qvpo@entropy_samples=0": MethodStyle(_GREENS[2], (0, (1, 1)), "o"),
    "qvpo@diffusion_steps=100": MethodStyle(_GREENS[1], "-", "s"),
    "qvpo@diffusion_steps=100,entropy_samples=0": MethodStyle(_GREENS[3], (0, (4, 2)), "^"),
    "qvpo@behavior_samples=1,target_samples=1": MethodStyle(_GREENS[4], (0, (1, 1)), "o"),
    "qvpo@target_samples=1": MethodStyle(_GREENS[2], (0, (4, 2)), "^"),
    "qvpo@target_samples=4": MethodStyle(_GREENS[1], "-", "s"),
    "qvpo@behavior_samples=20": MethodStyle(_GREENS[3], (0, (6, 1, 1, 1, 1, 1)), "v"),
    "qvpo@entropy_samples=0,eval_samples=1": MethodStyle(_GREENS[3], (0, (1, 1)), "o"),
    "qvpo@eval_samples=1": MethodStyle(_GREENS[0], "-", "D"),
}
# Colours of Paul Tol's schemes, for methods not in `KNOWN`.
OTHER_COLORS = ("#117733", "#44AA99", "#CC6677", "#AA4499", "#661100", "#6699CC")
OTHER_DASHES: tuple[Dash, ...] = (
    "-",
    (0, (4, 2)),
    (0, (1, 2)),
    (0, (6, 2, 1, 2)),
    (0, (2, 1)),
    (0, (6, 1, 1, 1, 1, 1)),
)
OTHER_MARKERS = ("h", "*", "d", "8")
SHADES = (-0.45, -0.25, 0.25, 0.45, 0.6)
PHASE_STYLES: dict[str, tuple[str, str]] = {
    "env": ("#BBBBBB", ""),
    "act": ("#56B4E9", "//"),
    "update": ("#0072B2", ".."),
    "eval": ("#F0C75E", "xx"),
}
"""Colour and hatch of each phase of a run."""

COLUMNS = 3
NOTICE_COLOR = "#B00020"


def method_style(label: str) -> MethodStyle:
    """Return the style of a method label, `<algo>[@<variant>]`.

    It depends on the label alone, so a further method never changes the others. A variant has a
    shade of its algorithm's colour and a line style and marker of its own.
    """
    algo, _, variant = label.partition("@")
    if label in KNOWN or label in VARIANTS:
        return KNOWN.get(label) or VARIANTS[label]
    digest = hashlib.sha256(label.encode()).digest()
    base = hashlib.sha256(algo.encode()).digest()
    color = KNOWN[algo].color if algo in KNOWN else _pick(OTHER_COLORS, base[0])
    if variant:
        color = shade(color, _pick(SHADES, digest[1]))
    return MethodStyle(color, _pick(OTHER_DASHES, digest[2]), _pick(OTHER_MARKERS, digest[3]))


@contextmanager
def figure_style() -> Iterator[None]:
    """Set fonts and lines for the figures drawn and saved inside the block."""
    settings: Any = {
        **sns.axes_style("ticks"),
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.7,
        "axes.linewidth": 0.8,
        "axes.edgecolor": "#555555",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "hatch.linewidth": 0.5,
        "legend.frameon": False,
        "svg.hashsalt": "levelfield",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(settings):
        yield


def panel_grid(panels: int, panel_size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Make a figure with `panels` panels in up to `COLUMNS` columns, `panel_size` in inches."""
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    # Room for a title and a footer even where there is one narrow panel.
    width = max(5.4, columns * panel_size[0])
    figure = Figure(figsize=(width, rows * panel_size[1]), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def annotate(
    figure: Figure, title: str, notice: str, footer: str, legend: Sequence[Artist] = ()
) -> None:
    """Add title, notice and legend above the panels and a footer below, wrapped to fit.

    The figure grows by the space they need, so that the panels keep their size and nothing
    overlaps.
    """
    width, height = figure.get_size_inches()
    warning = textwrap.wrap(notice.replace("`", "'"), int(width * 12))
    lines = textwrap.wrap(footer, int(width * 14.5))
    head = 0.3 + 0.17 * len(warning) + (0.26 if legend else 0.0)
    foot = 0.12 + 0.155 * len(lines)
    total = height + head + foot
    figure.set_size_inches(width, total)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, foot / total, 1, height / total), h_pad=0.07)
    middle: Any = {"x": 0.5, "ha": "center"}
    figure.text(y=1 - 0.07 / total, s=title, va="top", fontsize=11, **middle)
    text = "\n".join(warning)
    figure.text(y=1 - 0.29 / total, s=text, va="top", color=NOTICE_COLOR, **middle)
    figure.text(y=0.06 / total, s="\n".join(lines), va="bottom", fontsize=8, color="#444", **middle)
    if legend:
        anchor = (0.5, (total - head + 0.26) / total)
        position: Any = {"loc": "upper center", "bbox_to_anchor": anchor, "borderaxespad": 0.2}
        figure.legend(handles=legend, ncols=len(legend), **position)


METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}
"""What to leave out of each kind of file, so that it depends on the figure only."""


def save(figure: Figure, stem: Path, suffixes: Sequence[str] = (".svg", ".png")) -> None:
    """Write `stem` with each of the suffixes; equal figures give equal bytes."""
    for suffix in suffixes:
        metadata = METADATA[suffix]
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=metadata)
        data = buffer.getvalue()
        write_atomic(stem.with_suffix(suffix), number_ids(data) if suffix == ".svg" else data)


def number_ids(svg: bytes) -> bytes:
    """Give the shared parts of an SVG file (markers, clipping areas) numbers in their order.

    Matplotlib names them by a hash of their exact position, whose last bit depends on the memory
    addresses by which the layout's solver orders its equations.
    """
    names = dict.fromkeys(re.findall(rb'(?:id="|url\(#)(\w*?[0-9a-f]{10})["\)]', svg))
    for number, name in enumerate(names):
        svg = svg.replace(name, b"%s%d" % (name[:-10] or b"n", number))
    return svg


def ticks() -> MaxNLocator:
    """Place at most five intervals of ticks at round numbers."""
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def thousands() -> FuncFormatter:
    """Format tick values: 1500 as 1.5K, 200000 as 200K, 1000000 as 1M."""
    return FuncFormatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def _pick(options: tuple[Any, ...], number: int) -> Any:
    return options[number % len(options)]


def shade(color: str, amount: float) -> str:
    """Mix a colour with white (amount > 0) or black (amount < 0)."""
    target = 1.0 if amount > 0 else 0.0
    mixed = [channel + abs(amount) * (target - channel) for channel in to_rgb(color)]
    return to_hex((mixed[0], mixed[1], mixed[2]))

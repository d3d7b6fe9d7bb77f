"""Where a policy's actions lie on the landscape of a bandit, at several stages of training."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data.logs import ExperimentError, read_table
from analysis.drawing import style
from analysis.drawing.tables import Table, seed_table
from analysis.papers.coverage import Coverage
from analysis.papers.figure_curves import finish
from analysis.statistics.types import Array

COLUMNS = ["env_step", "sample", "action_0", "action_1"]
GRID = 161
"""Points of the landscape along each axis."""

WIDTHS = 2.0
"""An action belongs to the nearest peak if it lies within this many of the peak's widths."""

SQUARES = 20
"""The plane has this many squares along each axis, to measure how much of it is visited."""

VISITED = "share of the plane"


def landscape(peaks: Sequence[Sequence[float]], x: Array, y: Array) -> Array:
    """Return the height of the highest Gaussian bump at points of any shape.

    Args:
        peaks: two coordinates, height and width of each bump.
        x: first component of the actions.
        y: second component, of the same shape.
    """
    bumps = [
        height * np.exp(-((x - left) ** 2 + (y - low) ** 2) / (2.0 * width**2))
        for left, low, height, width in peaks
    ]
    return np.max(bumps, axis=0)


def peak_of(peaks: Sequence[Sequence[float]], x: Array, y: Array) -> Array:
    """Return the index of the peak that each action belongs to, -1 for none."""
    distances = np.stack([np.hypot(x - left, y - low) / w for left, low, _, w in peaks])
    nearest = distances.argmin(axis=0)
    return np.where(distances.min(axis=0) <= WIDTHS, nearest, -1)


def visited(x: Array, y: Array) -> float:
    """Return the share of the plane's squares that hold an action."""
    squares = [np.clip(((v + 1) / 2 * SQUARES).astype(int), 0, SQUARES - 1) for v in (x, y)]
    return len(set(zip(*squares, strict=True))) / SQUARES**2


def actions(coverage: Coverage) -> pd.DataFrame:
    """Read the actions of all finished runs: task, label, seed and `COLUMNS`.

    Raises:
        ExperimentError: a file breaks the format.
    """
    tables = []
    for row in coverage.experiment.runs.query("status == 'done'").to_dict("records"):
        table = read_table(row["path"] / coverage.target.file, COLUMNS)
        keys = {key: row[key] for key in ("task", "label", "seed")}
        tables.append(table.assign(**keys))
    empty = pd.DataFrame(columns=[*COLUMNS, "task", "label", "seed"], dtype=float)
    return pd.concat([table for table in tables if len(table)] or [empty], ignore_index=True)


def tables(coverage: Coverage) -> list[Table]:
    """Return the table of where the last actions lie, in per cent, mean over seeds."""
    peaks, taken = _peaks(coverage), actions(coverage)
    names = [f"peak of height {height:g}" for _, _, height, _ in peaks]
    runs = coverage.experiment.runs
    records = []
    for row in runs.to_dict("records"):
        mine = taken[(taken["label"] == row["label"]) & (taken["seed"] == row["seed"])]
        last = mine[mine["env_step"] == mine["env_step"].max()]
        mark = "" if row["status"] == "done" else row["status"]
        mark = mark or ("" if len(last) else f"without {coverage.target.file}")
        x, y = last["action_0"].to_numpy(), last["action_1"].to_numpy()
        at = peak_of(peaks, x, y) if peaks else np.empty(0)
        shares = {name: _share(at == i) for i, name in enumerate(names)}
        shares[VISITED] = visited(x, y) if len(last) else np.nan
        records += [
            {"task": place, "label": row["label"], "value": 100 * share, "mark": mark}
            for place, share in shares.items()
        ]
    notes = [
        f"An action is at a peak if it lies within {WIDTHS:g} of its widths. Share of the plane: "
        f"of {SQUARES} × {SQUARES} squares, those that hold an action.",
        f"After {coverage.target.paper}.",
        coverage.target.note,
    ]
    table = seed_table(
        f"{coverage.target.title}: where the last actions lie, in per cent",
        pd.DataFrame(records),
        coverage.experiment.names,
        [*names, VISITED],
        notice=coverage.notice,
        notes=notes,
    )
    return [dataclasses.replace(table, corner="where")]


def draw(coverage: Coverage, stem: Path) -> None:
    """Write contour lines and actions to `stem`.svg, .pdf and .png.

    A row is a method, a column a stage of training; the seeds differ in marker and shade.
    """
    target, peaks, taken = coverage.target, _peaks(coverage), actions(coverage)
    stages = sorted(taken["env_step"].unique()) or [float(target.steps)]
    with style.figure_style():
        size = max(5.4, 2.3 * len(stages) + 0.4), 2.5 * len(target.labels)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(
            len(target.labels), len(stages), squeeze=False, sharex=True, sharey=True
        )
        for row, label in zip(axes, target.labels, strict=True):
            name = coverage.experiment.names[label]
            row[0].set_ylabel(name.replace(" (", "\n("), fontsize=8)
            for axis, stage in zip(row, stages, strict=True):
                mine = taken[(taken["label"] == label) & (taken["env_step"] == stage)]
                _draw_panel(axis, peaks, mine, label)
                axis.set_title(f"{stage:,.0f} steps (n={mine['seed'].nunique()})", fontsize=9)
        text = (
            "Contour lines: the reward of an action, from 0.1 in steps of 0.1; + its peaks. Dots: "
            f"actions of the policy without exploration, from python -m {target.tool} RUN; the "
            "markers are the seeds."
        )
        finish(figure, coverage, stem, [text])


def _draw_panel(
    axis: Axes, peaks: Sequence[Sequence[float]], taken: pd.DataFrame, label: str
) -> None:
    ticks = np.linspace(-1.0, 1.0, GRID)
    x, y = np.meshgrid(ticks, ticks)
    if peaks:
        levels = np.arange(0.1, 1.0, 0.1)
        axis.contour(x, y, landscape(peaks, x, y), levels, colors="#999999", linewidths=0.6)
        axis.plot([p[0] for p in peaks], [p[1] for p in peaks], "k+", markersize=6)
    color = style.method_style(label).color
    for (seed, dots), marker in zip(taken.groupby("seed"), "o^sDv" * 20, strict=False):
        axis.plot(
            dots["action_0"],
            dots["action_1"],
            linestyle="none",
            marker=marker,
            markersize=1.8,
            color=color,
            markeredgewidth=0,
            alpha=0.7,
            label=f"seed {seed}",
        )
    if taken.empty:
        axis.text(0, 0, "no actions", ha="center", va="center")
    axis.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal")
    axis.grid(visible=False)


def _share(flags: Array) -> float:
    """Return the share of the flags that are set, NaN if there are none."""
    return float(np.mean(flags)) if len(flags) else float("nan")


def _peaks(coverage: Coverage) -> list[list[float]]:
    """Return the landscape as a finished run records it; empty if there is none.

    Raises:
        ExperimentError: run.json does not say.
    """
    done = coverage.experiment.runs.query("status == 'done'")["path"]
    for folder in done:
        file = folder / "run.json"
        try:
            facts: Any = json.loads(file.read_text(encoding="utf-8"))["task_facts"]["peaks"]
            return [[float(x) for x in peak] for peak in facts if len(peak) == 4]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExperimentError(f"{file} has no landscape: {error!r}") from error
    return []

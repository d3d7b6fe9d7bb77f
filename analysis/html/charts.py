"""The charts of the HTML report; each shows the same numbers as the figure of its name."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pandas as pd

from analysis.data.experiment import SUCCESS_MEASURES, Experiment, Measure
from analysis.data.scores import Scores
from analysis.drawing import runtime
from analysis.drawing.profiles import THRESHOLDS
from analysis.drawing.tables import Table, seed_cell
from analysis.html import svg
from analysis.html.markup import element
from analysis.html.methods import Method
from analysis.statistics.aggregates import AGGREGATES, performance_profile
from analysis.statistics.intervals import performance_profile_band
from runners.cells.schema import PHASES

MAX_POINTS = 200
"""Evaluations that a curve is drawn with at most, about one per unit of the chart's width."""

MARKERS = 8
END_MARKS = {"failed": "stopped", "diverged": "stopped", "running": "running"}
ROOM = 0.04
"""Share of the values' range that stays free above and below them."""


def learning_curves(
    experiment: Experiment,
    task: str,
    measure: Measure,
    curves: Mapping[Any, pd.DataFrame],
    methods: Sequence[Method],
) -> Element:
    """Draw the learning curves of a task.

    Args:
        experiment: the runs.
        task: task id.
        measure: what the curves show, as in `Experiment.curves`.
        curves: for each (task, label) the rows of `curves.plotted`.
        methods: the methods.
    """
    drawn = {
        method: curves[task, method.label] for method in methods if (task, method.label) in curves
    }
    if measure == "return":
        label, limits = "return", _limits([_extent(rows) for rows in drawn.values()])
    else:
        label, limits = "success rate in %", (-100 * ROOM, 100 * (1 + ROOM))
    end = max((float(rows["env_step"].max()) for rows in drawn.values()), default=0.0)
    panel = svg.Panel.over((0.0, end or experiment.protocol.steps), limits)
    statuses = {
        (run_label, seed): status
        for run_task, run_label, seed, status in experiment.runs[
            ["task", "label", "seed", "status"]
        ].itertuples(index=False, name=None)
        if run_task == task
    }
    groups = [_method_curves(panel, method, rows, statuses) for method, rows in drawn.items()]
    reading = SUCCESS_MEASURES.get(measure)
    subject = f"Success rate ({reading})" if reading else "Return"
    description = (
        f"{subject} over environment steps on {task}, a line for each of {len(drawn)} methods. "
        "The numbers stand in a table below the charts."
    )
    return svg.chart(
        f"{subject} on {task}", description, panel.axes("environment steps", label), *groups
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, std and number of seeds at each evaluation, of one method on one task."""
    return rows.groupby("env_step")["value"].agg(["mean", "std", "count"])


def thinned(count: int, limit: int) -> list[int]:
    """Choose at most `limit` of `count` positions at equal distances, the last one among them."""
    stride = -(-count // limit) if count else 1
    return list(range(count - 1, -1, -stride))[::-1]


def run_times(
    experiment: Experiment, task: str, times: pd.DataFrame, methods: Sequence[Method]
) -> Element:
    """Draw the run time of each method on a task as bars of its phases.

    Args:
        experiment: the runs.
        task: task id.
        times: the frame of `measure_run_times`.
        methods: the methods.
    """
    times = times[times["task"] == task]
    longest = times.loc[times["mark"] == ""].groupby("label")["total"].mean().max()
    scale = svg.row_scale(0.0, longest if longest > 0 else 1.0)
    rows = []
    for method in methods:
        runs = times[times["label"] == method.label]
        cell = seed_cell(runs.assign(value=runs["total"]))
        means = runs.loc[runs["mark"] == "", list(PHASES)].mean()
        bars, end = [], 0.0
        for phase in PHASES if cell.value is not None else ():
            places = scale(end), scale(end + means[phase])
            bars.append(svg.bar(*places, class_="phase", fill=f"url(#phase-{phase})"))
            end += means[phase]
        text = f"{method.name}: {runtime.bar_text(cell)}"
        rows.append(svg.row(text, *bars, data_method=method.tags["data_method"]))
    description = f"A bar for each of {len(methods)} methods, split into {', '.join(PHASES)}."
    return svg.row_chart(f"Run time on {task}", description, scale, runtime.TITLE, rows)


def aggregates(scores: Scores, table: Table, aggregate: str, methods: Sequence[Method]) -> Element:
    """Draw the estimate and interval of one aggregate for each method.

    Args:
        scores: the scores and their aggregates.
        table: what `intervals.table` makes of them.
        aggregate: a row of the table.
        methods: the methods.
    """
    known = [estimates[aggregate] for estimates in scores.estimates.values()]
    scale = svg.row_scale(*_limits([(estimate.low, estimate.high) for estimate in known]))
    rows = []
    for method in methods:
        cell = table.cells[aggregate, method.name]
        parts = []
        if cell.interval is not None:
            low, high = cell.interval
            parts.append(svg.bar(scale(low), scale(high), class_="interval"))
        if cell.value is not None:
            parts.append(svg.tick(scale(cell.value)))
        text = f"{method.name}: {cell.text(table.digits)}"
        rows.append(svg.row(text, *parts, **method.tags))
    label = f"normalised score ({AGGREGATES[aggregate].better} is better)"
    description = f"A point estimate for each of {len(methods)} methods, with its interval."
    return svg.row_chart(aggregate, description, scale, label, rows)


def profiles(scores: Scores, methods: Sequence[Method]) -> Element:
    """Draw the performance profiles of methods that are finished on all tasks."""
    runs = {
        method: [scores.by_task[method.label][task] for task in scores.tasks] for method in methods
    }
    pooled = [task for tasks in runs.values() for task in tasks]
    low, high = min(task.min() for task in pooled), max(task.max() for task in pooled)
    panel = svg.Panel.over(_limits([(low, high)]), (-ROOM, 1 + ROOM))
    thresholds = np.linspace(low, high, THRESHOLDS)
    groups = []
    for method, tasks in runs.items():
        fractions = performance_profile(tasks, thresholds)
        points = list(zip(thresholds, fractions, strict=True))
        parts = [panel.line(points, "mean", svg.dash(method.label))]
        if not scores.single(method.label):
            band = performance_profile_band(tasks, thresholds)
            parts.insert(0, panel.band(list(zip(thresholds, *band, strict=True))))
        marker = svg.marker(method.label)
        parts += [panel.mark(marker, *points[i]) for i in thinned(THRESHOLDS, MARKERS)]
        groups.append(element("g", element("title", method.name), *parts, **method.tags))
    description = (
        "For each score, the fraction of runs that score above it, averaged over "
        f"{len(scores.tasks)} tasks, a line for each of {len(runs)} methods."
    )
    axes = panel.axes("normalised score τ", "fraction of runs with score > τ")
    return svg.chart("Performance profiles", description, axes, *groups)


def _method_curves(
    panel: svg.Panel,
    method: Method,
    rows: pd.DataFrame,
    statuses: Mapping[tuple[str, int], str],
) -> Element:
    """Draw band, single seeds, mean, markers and ends of one method's curves."""
    points = summary(rows)
    points = points.iloc[thinned(len(points), MAX_POINTS)]
    deviating = points.dropna()
    low, high = deviating["mean"] - deviating["std"], deviating["mean"] + deviating["std"]
    parts = [panel.band(list(zip(deviating.index, low, high, strict=True)))]
    ends = []
    for seed, curve in rows.groupby("seed"):
        kept = curve.iloc[thinned(len(curve), MAX_POINTS)]
        parts.append(panel.line(zip(kept["env_step"], kept["value"], strict=True), "seed"))
        end, status = curve.iloc[-1], statuses.get((method.label, int(str(seed))))
        if status in END_MARKS and np.isfinite(end["value"]):
            ends.append(panel.mark(END_MARKS[status], end["env_step"], end["value"], "end"))
    means = list(zip(points.index, points["mean"], strict=True))
    marker = svg.marker(method.label)
    marks = [
        panel.mark(marker, *means[i])
        for i in thinned(len(means), MARKERS)
        if np.isfinite(means[i][1])
    ]
    parts.append(panel.line(means, "mean", svg.dash(method.label)))
    return element("g", element("title", method.name), *parts, *marks, *ends, **method.tags)


def _extent(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the lowest and highest value of a method's curves and their band, NaN if none."""
    points = summary(rows)
    values = pd.concat(
        [rows["value"], points["mean"] - points["std"], points["mean"] + points["std"]]
    )
    return float(values.min()), float(values.max())


def _limits(extents: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the range of an axis that shows all extents, with some room; (0, 1) without any."""
    finite = [extent for extent in extents if np.isfinite(extent).all()]
    if not finite:
        return 0.0, 1.0
    low, high = min(low for low, _ in finite), max(high for _, high in finite)
    room = ROOM * (high - low)
    return low - room, high + room

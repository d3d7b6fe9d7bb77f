"""Learning curves: the result of every evaluation over environment steps, one panel per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from analysis.data.experiment import SUCCESS_MEASURES, Experiment, Measure
from analysis.drawing import style

FOOTER = (
    "Thick line: mean over seeds of each evaluation's {}. Band: ± one sample standard "
    "deviation over seeds. Thin lines: single seeds. A seed that stopped early counts up to its "
    "last evaluation, marked × (failed or diverged) or ○ (still running)."
)
END_MARKS = {"failed": ("x", 6), "diverged": ("x", 6), "running": ("o", 7)}


def draw(experiment: Experiment, stem: Path, measure: Measure = "return") -> None:
    """Write the learning curves to `stem`.svg and `stem`.png, success rates in percent.

    Args:
        experiment: the runs; at least one task must have the measure.
        stem: path of the two files without their ending.
        measure: what to draw, as in `Experiment.curves`.
    """
    tasks = [task for task in experiment.tasks if measure in experiment.measures(task)]
    reading = SUCCESS_MEASURES.get(measure)
    subject = f"Success rate ({reading})" if reading else "Learning curves"
    title = f"{subject}, experiment {experiment.name}"
    with style.figure_style():
        figure, _ = panels(experiment, tasks, measure)
        style.annotate(figure, title, experiment.protocol.notice, footer(measure))
        style.save(figure, stem)


def panels(
    experiment: Experiment, tasks: Sequence[str], measure: Measure
) -> tuple[Figure, list[Axes]]:
    """Draw one panel per task, without a title; call it inside `style.figure_style`."""
    values = plotted(experiment, measure)
    curves: dict[Any, pd.DataFrame] = dict(iter(values.groupby(["task", "label"])))
    empty = values.iloc[:0]
    legends = {task: legend_texts(experiment, curves, task) for task in tasks}
    lines = max(-(-len(texts) // _legend_columns(texts)) for texts in legends.values())
    figure, axes = style.panel_grid(len(tasks), (3.7, 2.5 + 0.17 * lines))
    for axis, task in zip(axes, tasks, strict=True):
        for label, text in zip(experiment.labels, legends[task], strict=True):
            runs = experiment.runs.query("task == @task and label == @label")
            _draw_method(axis, curves.get((task, label), empty), runs, label, text)
        _finish_panel(axis, task, measure)
        _draw_legend(figure, axis, legends[task])
    return figure, axes


def footer(measure: Measure) -> str:
    """Explain what the lines are."""
    reading = SUCCESS_MEASURES.get(measure)
    result = f"success rate ({reading} of an episode)" if reading else "mean return"
    return FOOTER.format(result)


def plotted(experiment: Experiment, measure: Measure) -> pd.DataFrame:
    """Return the curves with the measure in a column `value`, in the unit of the figure."""
    curves = experiment.curves(measure).rename(columns={measure: "value"})
    if measure == "return":
        return curves
    # Where no rate was reported there is nothing to draw and no seed to count.
    return curves.assign(value=100 * curves["value"]).dropna()


def _draw_method(
    axis: Axes, curves: pd.DataFrame, runs: pd.DataFrame, label: str, text: str
) -> None:
    """Draw mean, band, single seeds and end marks of one method on one task."""
    look = style.method_style(label)
    for seed, curve in curves.groupby("seed"):
        axis.plot(curve["env_step"], curve["value"], color=look.color, alpha=0.3, linewidth=0.6)
        _draw_end(axis, curve.iloc[-1], runs.loc[runs["seed"] == seed, "status"].item(), look.color)
    points = curves.groupby("env_step")["value"].agg(["mean", "std"])
    axis.plot(
        points.index,
        points["mean"],
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=4,
        markevery=max(1, len(points) // 8),
        linewidth=1.6,
        zorder=3,
        label=text,
    )
    band = points.dropna()
    low, high = band["mean"] - band["std"], band["mean"] + band["std"]
    axis.fill_between(band.index, low, high, color=look.color, alpha=0.15, linewidth=0)


def _draw_end(axis: Axes, end: pd.Series, status: str, color: str) -> None:
    """Mark the last evaluation of a seed that is not finished."""
    if status not in END_MARKS:
        return
    marker, size = END_MARKS[status]
    axis.plot(
        end["env_step"],
        end["value"],
        marker=marker,
        fillstyle="none",
        color=color,
        markersize=size,
        markeredgewidth=1.4,
        zorder=4,
    )


def _finish_panel(axis: Axes, task: str, measure: Measure) -> None:
    axis.set_title(task)
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return" if measure == "return" else "success rate in %")
    axis.xaxis.set_major_formatter(style.thousands())
    axis.yaxis.set_major_formatter(style.thousands())
    axis.xaxis.set_major_locator(style.ticks())
    axis.yaxis.set_major_locator(style.ticks())
    axis.set_xlim(left=0)
    if measure != "return":
        # From 0 to 100, with room for the lines and markers at the two ends.
        axis.set_ylim(-4, 104)
    if not any(np.size(line.get_xdata()) for line in axis.get_lines()):
        axis.text(0.5, 0.5, "no evaluations", transform=axis.transAxes, ha="center", va="center")


def _draw_legend(figure: Figure, axis: Axes, texts: list[str]) -> None:
    # Below the axis label, at the same distance whatever the height of the panel.
    below = offset_copy(axis.transAxes, figure, y=-33, units="points")
    axis.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=below,
        borderaxespad=0,
        ncols=_legend_columns(texts),
        handlelength=2.6,
        columnspacing=1.2,
    )


def legend_texts(
    experiment: Experiment, curves: Mapping[tuple[str, str], pd.DataFrame], task: str
) -> list[str]:
    """Return for each method its name, the number of seeds drawn, and how many are not finished."""
    texts = []
    for label in experiment.labels:
        runs = experiment.runs.query("task == @task and label == @label and status != 'done'")
        counts = runs["status"].value_counts().sort_index()
        marks = [f"{number} {status}" for status, number in counts.items()]
        n = curves[task, label]["seed"].nunique() if (task, label) in curves else 0
        texts.append(f"{experiment.names[label]} ({', '.join([f'n={n}', *marks])})")
    return texts


def _legend_columns(texts: list[str]) -> int:
    """Return two columns if the entries are short enough for the panel's width, else one."""
    return 2 if max(map(len, texts)) <= 22 else 1

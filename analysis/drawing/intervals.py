"""Aggregates over tasks with bootstrap intervals, in the manner of rliable's interval plot.

The plot is drawn here because rliable's own places its axis label and margins by hand, which
breaks with few methods, and has no place for the seed counts.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data.experiment import Experiment
from analysis.data.published import scale
from analysis.data.scores import Scores
from analysis.drawing import style
from analysis.drawing.tables import Cell, Table
from analysis.statistics.aggregates import AGGREGATES
from analysis.statistics.run_statistics import RUN_STATISTICS


def notes(experiment: Experiment, scores: Scores) -> list[str]:
    """Say what the aggregates are made of."""
    statistic = RUN_STATISTICS[experiment.protocol.reported[0]].text
    sources = dict.fromkeys(known.source for task in scores.tasks if (known := scale(task)))
    lines = [
        f"Value of a run: {statistic}. Score = (value − random) / (reference − random).",
        *(f"Source of the constants: {source}." for source in sources),
        f"Tasks: {', '.join(scores.tasks) or 'none'}.",
    ]
    if scores.left_out:
        tasks = ", ".join(scores.left_out)
        lines.append(f"Left out, no constants to normalise with: {tasks}.")
    lines.append(
        "Intervals: 95 % stratified percentile bootstrap over seeds; a method with one seed per "
        "task has none. n is the number of seeds per task. Definitions as in rliable."
    )
    return lines


def table(experiment: Experiment, scores: Scores) -> Table:
    """Return the table of the aggregates, one row for each."""
    cells = {
        (aggregate, name): _cell(scores, label, aggregate)
        for aggregate in AGGREGATES
        for label, name in experiment.names.items()
    }
    return Table(
        "Aggregates of normalised scores",
        "aggregate",
        list(AGGREGATES),
        list(experiment.names.values()),
        cells,
        notes(experiment, scores),
        experiment.protocol.notice,
        digits=2,
    )


def _cell(scores: Scores, label: str, aggregate: str) -> Cell:
    if label not in scores.estimates:
        return Cell(marks=(scores.lack(label),))
    estimate = scores.estimates[label][aggregate]
    interval = None if scores.single(label) else (estimate.low, estimate.high)
    return Cell(estimate.point, scores.seeds(label), interval=interval)


def draw(experiment: Experiment, scores: Scores, stem: Path) -> None:
    """Write one panel of intervals per aggregate to `stem`.svg and `stem`.png."""
    with style.figure_style():
        labels = experiment.labels
        figure = Figure(figsize=(10.5, 0.9 + 0.36 * len(labels)), layout="constrained")
        axes = figure.subplots(1, len(AGGREGATES), sharey=True)
        for axis, aggregate in zip(axes, AGGREGATES, strict=True):
            _draw_aggregate(axis, scores, labels, aggregate)
        names = [f"{experiment.names[label]} (n={scores.seeds(label)})" for label in labels]
        axes[0].set_yticks(range(len(labels)), names)
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
        count = len(scores.tasks)
        tasks = f"{count} task{'' if count == 1 else 's'}"
        title = f"Normalised scores over {tasks}, experiment {experiment.name}"
        footer = " ".join(notes(experiment, scores))
        style.annotate(figure, title, experiment.protocol.notice, footer)
        style.save(figure, stem)


def _draw_aggregate(axis: Axes, scores: Scores, labels: list[str], aggregate: str) -> None:
    """Draw a bar from low to high and a line at the point estimate for each method."""
    for position, label in enumerate(labels):
        if label not in scores.estimates:
            axis.text(
                0.03,
                position,
                f"— {scores.lack(label)}",
                va="center",
                fontsize=7,
                transform=axis.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
            continue
        estimate = scores.estimates[label][aggregate]
        color = style.method_style(label).color
        ends = position - 0.3, position + 0.3
        if scores.single(label):
            axis.vlines(estimate.point, *ends, color=color, linewidth=2.5)
            continue
        width = estimate.high - estimate.low
        axis.barh(position, width, left=estimate.low, height=0.6, color=color, alpha=0.7)
        axis.vlines(estimate.point, *ends, color="black", linewidth=1.6)
    axis.set_title(f"{aggregate} (n={scores.seeds(*scores.estimates)})")
    axis.set_xlabel(f"normalised score ({AGGREGATES[aggregate].better} is better)", fontsize=8)
    axis.xaxis.set_major_locator(style.ticks())
    axis.use_sticky_edges = False
    axis.margins(x=0.06)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)

"""Aggregates over tasks with bootstrap intervals, in the manner of rliable's interval plot.

The plot is drawn here because rliable's own places its axis label and margins by hand, which
breaks with few methods, and has no place for the seed counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data.load import Experiment
from analysis.data.published import scale
from analysis.data.values import scores
from analysis.drawing import style
from analysis.drawing.tables import Cell, Table
from analysis.statistics.aggregates import AGGREGATES
from analysis.statistics.intervals import Estimate, bootstrap
from analysis.statistics.run_statistics import RUN_STATISTICS
from analysis.statistics.types import Array


@dataclass(frozen=True)
class Comparison:
    """The aggregates of all methods on one set of tasks.

    Attributes:
        tasks: The tasks aggregated.
        left_out: Tasks without normalisation constants.
        scores: For each method label and each task with a finished run, the scores [runs].
        estimates: For each label that has a finished run on all `tasks`, its aggregates.
    """

    tasks: list[str]
    left_out: list[str]
    scores: Mapping[str, Mapping[str, Array]]
    estimates: Mapping[str, Mapping[str, Estimate]]

    def seeds(self, *labels: str) -> str:
        """The number of seeds per task of some methods, a range such as "2–4" if they differ."""
        counts = [len(self.scores[label].get(task, ())) for label in labels for task in self.tasks]
        low, high = min(counts, default=0), max(counts, default=0)
        return f"{low}" if low == high else f"{low}–{high}"

    def single(self, label: str) -> bool:
        """Whether the method has one seed on every task, so that there is no interval."""
        return self.seeds(label) == "1"

    def lack(self, label: str) -> str:
        """Why a method has no estimates."""
        if not self.tasks:
            return "no normalised task has a finished run"
        return f"finished on {len(self.scores[label])} of {len(self.tasks)} tasks"


def compare(experiment: Experiment) -> Comparison:
    """Aggregates the protocol's primary statistic of all finished runs."""
    by_label = scores(experiment, experiment.protocol.reported[0])
    covered = set().union(*by_label.values())
    tasks = [task for task in experiment.tasks if task in covered]
    estimates = {
        label: bootstrap([by_task[task] for task in tasks])
        for label, by_task in by_label.items()
        if tasks and len(by_task) == len(tasks)
    }
    left_out = [task for task in experiment.tasks if scale(task) is None]
    return Comparison(tasks, left_out, by_label, estimates)


def notes(experiment: Experiment, comparison: Comparison) -> list[str]:
    """Says what the aggregates are made of."""
    statistic = RUN_STATISTICS[experiment.protocol.reported[0]].text
    sources = dict.fromkeys(known.source for task in comparison.tasks if (known := scale(task)))
    lines = [
        f"Value of a run: {statistic}. Score = (value − random) / (reference − random).",
        *(f"Source of the constants: {source}." for source in sources),
        f"Tasks: {', '.join(comparison.tasks) or 'none'}.",
    ]
    if comparison.left_out:
        tasks = ", ".join(comparison.left_out)
        lines.append(f"Left out, no constants to normalise with: {tasks}.")
    lines.append(
        "Intervals: 95 % stratified percentile bootstrap over seeds; a method with one seed per "
        "task has none. n is the number of seeds per task. Definitions as in rliable."
    )
    return lines


def table(experiment: Experiment, comparison: Comparison) -> Table:
    """Returns the table of the aggregates, one row for each."""
    cells = {
        (aggregate, name): _cell(comparison, label, aggregate)
        for aggregate in AGGREGATES
        for label, name in experiment.names.items()
    }
    return Table(
        "Aggregates of normalised scores",
        "aggregate",
        list(AGGREGATES),
        list(experiment.names.values()),
        cells,
        notes(experiment, comparison),
        experiment.protocol.notice,
        digits=2,
    )


def _cell(comparison: Comparison, label: str, aggregate: str) -> Cell:
    if label not in comparison.estimates:
        return Cell(marks=(comparison.lack(label),))
    estimate = comparison.estimates[label][aggregate]
    interval = None if comparison.single(label) else (estimate.low, estimate.high)
    return Cell(estimate.point, comparison.seeds(label), interval=interval)


def draw(experiment: Experiment, comparison: Comparison, stem: Path) -> None:
    """Writes one panel of intervals per aggregate to `stem`.svg and `stem`.png."""
    with style.figure_style():
        labels = experiment.labels
        figure = Figure(figsize=(10.5, 0.9 + 0.36 * len(labels)), layout="constrained")
        axes = figure.subplots(1, len(AGGREGATES), sharey=True)
        for axis, aggregate in zip(axes, AGGREGATES, strict=True):
            _draw_aggregate(axis, comparison, labels, aggregate)
        names = [f"{experiment.names[label]} (n={comparison.seeds(label)})" for label in labels]
        axes[0].set_yticks(range(len(labels)), names)
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
        count = len(comparison.tasks)
        tasks = f"{count} task{'' if count == 1 else 's'}"
        title = f"Normalised scores over {tasks}, experiment {experiment.name}"
        footer = " ".join(notes(experiment, comparison))
        style.annotate(figure, title, experiment.protocol.notice, footer)
        style.save(figure, stem)


def _draw_aggregate(axis: Axes, comparison: Comparison, labels: list[str], aggregate: str) -> None:
    """Draws a bar from low to high and a line at the point estimate for each method."""
    for position, label in enumerate(labels):
        if label not in comparison.estimates:
            axis.text(
                0.03,
                position,
                f"— {comparison.lack(label)}",
                va="center",
                fontsize=7,
                transform=axis.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
            continue
        estimate = comparison.estimates[label][aggregate]
        color = style.method_style(label).color
        ends = position - 0.3, position + 0.3
        if comparison.single(label):
            axis.vlines(estimate.point, *ends, color=color, linewidth=2.5)
            continue
        width = estimate.high - estimate.low
        axis.barh(position, width, left=estimate.low, height=0.6, color=color, alpha=0.7)
        axis.vlines(estimate.point, *ends, color="black", linewidth=1.6)
    axis.set_title(f"{aggregate} (n={comparison.seeds(*comparison.estimates)})")
    axis.set_xlabel(f"normalised score ({AGGREGATES[aggregate].better} is better)", fontsize=8)
    axis.xaxis.set_major_locator(style.ticks())
    axis.use_sticky_edges = False
    axis.margins(x=0.06)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)

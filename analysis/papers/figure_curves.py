"""Learning curves of a target, with the published numbers as hollow markers."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data.published import STATISTICS, Published
from analysis.drawing import curves, style
from analysis.papers.coverage import SHORTER, Coverage
from analysis.papers.figure_table import known
from analysis.papers.targets import published_method

SUFFIXES = (".svg", ".pdf", ".png")


def draw(coverage: Coverage, stem: Path) -> None:
    """Write the learning curves to `stem` with each of `SUFFIXES`."""
    target = coverage.target
    with style.figure_style():
        figure, axes = curves.panels(coverage.experiment, target.tasks, target.measure)
        for axis, task in zip(axes, target.tasks, strict=True):
            axis.set_xlim(0, 1.04 * target.steps)
            for label in target.labels:
                for number in known(coverage):
                    if (number.task, number.method) == (task, published_method(label)):
                        _mark(axis, number, label)
        finish(figure, coverage, stem, [curves.footer(target.measure), *_explain(coverage)])


def finish(
    figure: Figure,
    coverage: Coverage,
    stem: Path,
    explanations: Sequence[str],
    legend: Sequence[Artist] = (),
) -> None:
    """Add title, coverage and footer to a figure, and write it."""
    target = coverage.target
    footer = [*explanations, f"After {target.paper}.", target.note]
    text = " ".join(part for part in footer if part)
    style.annotate(figure, target.title, coverage.notice, text, legend)
    stem.parent.mkdir(parents=True, exist_ok=True)
    style.save(figure, stem, SUFFIXES)


def _mark(axis: Axes, number: Published, label: str) -> None:
    """Mark a published number where its steps are; its spread is a vertical line."""
    if number.mean is None or number.steps is None:
        return
    look = style.method_style(label)
    unit = 1.0 if number.metric == "return" else 100.0
    mean, spread = (
        (number.original_mean, number.original_std)
        if number.miscopied
        else (
            number.mean,
            number.std,
        )
    )
    axis.errorbar(
        [number.steps],
        [unit * (mean or 0.0)],
        yerr=None if spread is None else [unit * spread],
        color=look.color,
        marker=look.marker,
        markersize=6,
        markerfacecolor="white",
        markeredgewidth=1.2,
        elinewidth=0.9,
        linestyle="none",
        clip_on=False,
        zorder=5,
    )


def _explain(coverage: Coverage) -> list[str]:
    texts = []
    here = {published_method(label) for label in coverage.target.labels}
    shown = [x for x in known(coverage) if x.mean is not None and x.method in here]
    if shown:
        meanings = dict.fromkeys(STATISTICS[number.statistic] for number in shown)
        texts.append(
            f"Hollow markers: published ({coverage.target.published}; {', '.join(meanings)})."
        )
        if any(number.miscopied for number in shown):
            texts.append("Where a number was copied wrongly, the marker is the original.")
    runs = coverage.experiment.runs
    reasons = dict.fromkeys(runs.loc[runs["status"] == SHORTER, "reason"])
    if reasons:
        texts.append(f"Shorter runs: {'; '.join(reasons)}.")
    return texts

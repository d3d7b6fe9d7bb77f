"""Performance profiles and the probability of improvement, in the manner of rliable's plots."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.data.experiment import Experiment
from analysis.data.scores import Scores
from analysis.drawing import style
from analysis.drawing.intervals import notes
from analysis.statistics.aggregates import performance_profile
from analysis.statistics.intervals import (
    Estimate,
    performance_profile_band,
    probability_of_improvement_estimate,
)
from analysis.statistics.types import Array

THRESHOLDS = 201
FOOTER = (
    "Left: the fraction of runs, averaged over tasks, whose score exceeds a threshold; bands: 95 % "
    "at each point. Right: the probability that a run of {}, the method with the highest IQM, "
    "beats a run of another on the same task, averaged over tasks; 0.5 if neither is better. With "
    "few seeds bootstrap intervals are too narrow."
)


def methods(scores: Scores) -> list[str]:
    """Return the labels with finished runs on all tasks, the highest interquartile mean first."""
    known = scores.estimates
    return sorted(known, key=lambda label: known[label]["IQM"].point, reverse=True)


def improvements(scores: Scores) -> dict[str, Estimate]:
    """Estimate how likely the first of `methods` beats each of the others."""
    first, *others = methods(scores)
    return {
        other: probability_of_improvement_estimate(_runs(scores, first), _runs(scores, other))
        for other in others
    }


def draw(experiment: Experiment, scores: Scores, stem: Path) -> None:
    """Write the profiles and the probabilities to `stem`.svg and `stem`.png.

    Args:
        experiment: the runs.
        scores: their normalised scores; at least two methods must have finished on all its tasks.
        stem: path of the two files without their ending.
    """
    labels = methods(scores)
    with style.figure_style():
        figure, [profile, improvement] = style.panel_grid(2, (5.2, 2.6 + 0.25 * len(labels)))
        _draw_profiles(profile, experiment, scores, labels)
        _draw_improvements(improvement, experiment, scores)
        count = len(scores.tasks)
        tasks = f"{count} task{'' if count == 1 else 's'}"
        title = f"Performance profiles over {tasks}, experiment {experiment.name}"
        name = experiment.names[labels[0]]
        footer = " ".join([FOOTER.format(name), *notes(experiment, scores)])
        style.annotate(figure, title, experiment.protocol.notice, footer)
        style.save(figure, stem)


def _runs(scores: Scores, label: str) -> list[Array]:
    return [scores.by_task[label][task] for task in scores.tasks]


def _draw_profiles(
    axis: Axes, experiment: Experiment, scores: Scores, labels: Sequence[str]
) -> None:
    pooled = np.concatenate([task for label in labels for task in _runs(scores, label)])
    thresholds = np.linspace(pooled.min(), pooled.max(), THRESHOLDS)
    for label in labels:
        look, runs = style.method_style(label), _runs(scores, label)
        axis.plot(
            thresholds,
            performance_profile(runs, thresholds),
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=4,
            markevery=THRESHOLDS // 8,
            label=f"{experiment.names[label]} (n={scores.seeds(label)})",
        )
        if not scores.single(label):
            low, high = performance_profile_band(runs, thresholds)
            axis.fill_between(thresholds, low, high, color=look.color, alpha=0.15, linewidth=0)
    axis.set_title(f"Performance profile (n={scores.seeds(*labels)})")
    axis.set_xlabel("normalised score τ")
    axis.set_ylabel("fraction of runs with score > τ")
    axis.set_ylim(-0.04, 1.04)
    axis.xaxis.set_major_locator(style.ticks())
    # Below the axis label: a profile fills its panel.
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _draw_improvements(axis: Axes, experiment: Experiment, scores: Scores) -> None:
    first, *others = methods(scores)
    found = improvements(scores)
    for position, label in enumerate(others):
        estimate, color = found[label], style.method_style(label).color
        if not (scores.single(first) and scores.single(label)):
            width = estimate.high - estimate.low
            axis.barh(position, width, left=estimate.low, height=0.6, color=color, alpha=0.7)
        axis.vlines(estimate.point, position - 0.3, position + 0.3, color="black", linewidth=1.6)
    names = [f"{experiment.names[label]} (n={scores.seeds(label)})" for label in others]
    axis.set_yticks(range(len(others)), names)
    axis.set_ylim(len(others) - 0.4, -0.6)
    axis.axvline(0.5, color="#555555", linewidth=0.8, linestyle=(0, (4, 2)))
    axis.set_xlim(-0.02, 1.02)
    axis.set_title(f"{experiment.names[first]} (n={scores.seeds(first)}) better than …")
    axis.set_xlabel("probability of improvement")
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)

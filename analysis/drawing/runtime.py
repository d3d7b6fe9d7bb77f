"""Run time: seconds per 1000 environment steps, split into the phases of a run."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from analysis.data.experiment import Experiment
from analysis.data.run_times import measure_run_times
from analysis.drawing import style
from analysis.drawing.tables import DASH, Cell, Table, seed_cell, seed_table
from runners.cells.schema import PHASES

TITLE = "Seconds per 1000 environment steps"


def tables(experiment: Experiment) -> list[Table]:
    """Return the table of total times and one for each phase."""
    times = measure_run_times(experiment)
    parts = {"total": TITLE, **{phase: f"{TITLE}, phase {phase}" for phase in PHASES}}
    return [
        seed_table(
            title,
            times.assign(value=times[part]),
            experiment.names,
            experiment.tasks,
            notice=experiment.protocol.notice,
            digits=2,
            better="lower" if part == "total" else None,
            notes=[conditions(experiment)],
        )
        for part, title in parts.items()
    ]


def conditions(experiment: Experiment) -> str:
    """Say where and how the runs were timed, and warn where they differ."""
    facts = experiment.runs[["machine", "settings"]]
    known = facts[(facts != "").any(axis=1)].drop_duplicates()
    lines = [
        "; ".join(text for text in row if text) for row in known.itertuples(index=False, name=None)
    ]
    if len(lines) > 1:
        return f"Measured under {len(lines)} conditions, not comparable: {' / '.join(lines)}."
    return f"Measured on: {lines[0]}." if lines else "The machine is not recorded."


def draw(experiment: Experiment, stem: Path) -> None:
    """Write stacked bars of the run time to `stem`.svg and `stem`.png, one panel per task."""
    times = measure_run_times(experiment)
    with style.figure_style():
        size = (3.7, 0.75 + 0.34 * len(experiment.labels))
        figure, axes = style.panel_grid(len(experiment.tasks), size)
        longest = times.loc[times["mark"] == ""].groupby(["task", "label"])["total"].mean().max()
        for axis, task in zip(axes, experiment.tasks, strict=True):
            _draw_task(axis, experiment, times[times["task"] == task], task)
            # The space right of the longest bar holds its number.
            axis.set_xlim(0, 1.75 * longest if longest > 0 else 1.0)
        footer = f"Mean over n seeds; only finished runs count. {conditions(experiment)}"
        title = f"{TITLE}, experiment {experiment.name}"
        style.annotate(figure, title, experiment.protocol.notice, footer, _legend())
        style.save(figure, stem)


def _draw_task(axis: Axes, experiment: Experiment, times: pd.DataFrame, task: str) -> None:
    for position, label in enumerate(experiment.labels):
        runs = times[times["label"] == label]
        means = runs.loc[runs["mark"] == "", list(PHASES)].mean()
        cell = seed_cell(runs.assign(value=runs["total"]))
        end = 0.0
        for phase in PHASES if cell.value is not None else ():
            color, hatch = style.PHASE_STYLES[phase]
            bar: dict[str, Any] = {
                "color": color,
                "hatch": hatch,
                "edgecolor": "white",
                "linewidth": 0.4,
            }
            axis.barh(position, means[phase], left=end, height=0.68, **bar)
            end += means[phase]
        axis.annotate(
            bar_text(cell),
            (end, position),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    # The method names stand once per row of panels.
    first = experiment.tasks.index(task) % style.COLUMNS == 0
    names = [name if first else "" for name in experiment.names.values()]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(experiment.labels) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(style.thousands())
    axis.xaxis.set_major_locator(style.ticks())
    axis.set_title(task)
    axis.set_xlabel("seconds per 1000 steps")


def bar_text(cell: Cell) -> str:
    """Return the text beside a bar: seconds with three digits, and how many runs count."""
    if cell.value is None:
        return f"{DASH} ({', '.join(cell.marks)})"
    seconds = f"{cell.value:,.0f}" if cell.value >= 100 else f"{cell.value:#.3g}"
    return f"{seconds} s ({', '.join([f'n={cell.n}', *cell.marks])})"


def _legend() -> list[Patch]:
    return [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=phase)
        for phase, (color, hatch) in style.PHASE_STYLES.items()
    ]

"""Hours of a run: published bars beside measured ones, told apart by their filling."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from analysis.data.experiment import RUN
from analysis.data.published import Published
from analysis.data.run_times import measure_run_times
from analysis.drawing import runtime, style
from analysis.drawing.tables import DASH, Cell, Table, seed_cell
from analysis.papers.coverage import SHORTER, Coverage
from analysis.papers.figure_curves import finish
from analysis.papers.figure_table import known
from analysis.papers.targets import published_method

HATCH = "////"
HEIGHT = 0.36
PALE = 0.4
"""How much a bar covers that ends where a shorter run did."""


def hours(coverage: Coverage) -> pd.DataFrame:
    """Measure the hours of every run by its last line of timing.csv.

    Returns:
        One row per cell: task, label, seed, value in hours, and mark, which says why a run does not
        count. A shorter run counts as long as it was, with nothing added for the rest.
    """
    experiment = coverage.experiment
    times = measure_run_times(experiment)
    ends = experiment.timing.groupby(RUN)["env_step"].max().rename("end").reset_index()
    times = times.merge(ends, on=RUN, how="left")
    # `measure_run_times` gives seconds per 1000 steps.
    value = times["total"] * times["end"] / 1000 / 3600
    mark = times["mark"].replace(SHORTER, "")
    mark = mark.mask((mark == "") & value.isna(), "without timing")
    return times[RUN].assign(value=value, mark=mark)


def tables(coverage: Coverage) -> list[Table]:
    """Return the table of published and measured hours."""
    target, cells = coverage.target, _cells(coverage)
    numbers = _numbers(coverage)
    columns: list[str] = []
    entries: dict[tuple[str, str], Cell] = {}
    for label in target.labels:
        name = coverage.experiment.names[label]
        method = published_method(label)
        if any(key[1] == method for key in numbers):
            columns.append(f"{name}, published")
            for task in target.tasks:
                number = numbers.get((task, method))
                mean = number.mean if number else None
                cell = Cell(mean, "?", marks=("not printed",) if mean is None else ())
                entries[task, columns[-1]] = cell
        columns.append(f"{name}, measured")
        for task in target.tasks:
            entries[task, columns[-1]] = cells[task, label]
    title = f"{target.title}: hours of a run of {target.steps:,} steps"
    notes = [*_conditions(coverage), f"After {target.paper}."]
    return [Table(title, "task", target.tasks, columns, entries, notes, coverage.notice, digits=2)]


def draw(coverage: Coverage, stem: Path) -> None:
    """Write the bars to `stem`.svg, .pdf and .png, one panel per task."""
    target, cells, numbers = coverage.target, _cells(coverage), _numbers(coverage)
    values = [cell.value for cell in cells.values() if cell.value is not None]
    longest = max([*values, *(x.mean for x in numbers.values() if x.mean is not None)], default=1.0)
    with style.figure_style():
        size = 3.7, 0.85 + 0.5 * len(target.labels)
        figure, axes = style.panel_grid(len(target.tasks), size)
        for position, (axis, task) in enumerate(zip(axes, target.tasks, strict=True)):
            for place, label in enumerate(target.labels):
                number = numbers.get((task, published_method(label)))
                shorter = (task, label) in coverage.shorter
                _draw_method(axis, place, label, number, cells[task, label], shorter)
            first = position % style.COLUMNS == 0
            names = [coverage.experiment.names[label] if first else "" for label in target.labels]
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            # The space right of the longest bar holds its number.
            axis.set_xlim(0, 1.6 * longest)
            axis.xaxis.set_major_locator(style.ticks())
            axis.grid(visible=False, axis="y")
            axis.tick_params(axis="y", length=0)
            axis.set_title(task)
            axis.set_xlabel("hours")
        finish(figure, coverage, stem, _conditions(coverage), _legend())


def _draw_method(
    axis: Axes, place: int, label: str, number: Published | None, cell: Cell, shorter: bool
) -> None:
    """Draw the published bar above the measured one, which is pale for shorter runs."""
    color = style.method_style(label).color
    published = number.mean if number else None
    text = f"{DASH} (not published)" if published is None else f"{published:.2f} h"
    upper, lower = place - HEIGHT / 2, place + HEIGHT / 2
    if published is not None:
        bar: dict[str, Any] = {
            "facecolor": "white",
            "edgecolor": color,
            "hatch": HATCH,
            "linewidth": 0.9,
        }
        axis.barh(upper, published, height=HEIGHT, **bar)
    _write(axis, published, upper, text)
    if cell.value is not None:
        alpha = PALE if shorter else 1.0
        axis.barh(lower, cell.value, height=HEIGHT, color=color, alpha=alpha, linewidth=0)
    unit = "" if cell.value is None else " h"
    _write(axis, cell.value, lower, cell.text(2).replace(" (", f"{unit} ("))


def _write(axis: Axes, end: float | None, position: float, text: str) -> None:
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}
    axis.annotate(text, (end or 0.0, position), (4, 0), **place)


def _cells(coverage: Coverage) -> dict[tuple[str, str], Cell]:
    values = hours(coverage)
    return {
        (task, label): _with_steps(
            coverage, task, label, seed_cell(values.query("task == @task and label == @label"))
        )
        for task in coverage.target.tasks
        for label in coverage.target.labels
    }


def _with_steps(coverage: Coverage, task: str, label: str, cell: Cell) -> Cell:
    """Mark hours of shorter runs with their steps."""
    experiment = coverage.shorter.get((task, label))
    if experiment is None or cell.value is None:
        return cell
    steps = f"{experiment.protocol.steps:,} steps"
    return Cell(cell.value, cell.n, cell.std, marks=(steps, *cell.marks))


def _numbers(coverage: Coverage) -> dict[tuple[str, str], Published]:
    return {(number.task, number.method): number for number in known(coverage)}


def _conditions(coverage: Coverage) -> list[str]:
    notes = dict.fromkeys(number.note for number in known(coverage) if number.note)
    measured = runtime.conditions(coverage.experiment)
    return [
        *(f"Published: {note}." for note in notes),
        f"Hours include evaluations; pale bars are of shorter runs, nothing added. {measured}",
        "Different machines: a ratio of two methods compares, an hour does not.",
    ]


def _legend() -> list[Patch]:
    return [
        Patch(facecolor="white", edgecolor="#444444", hatch=HATCH, label="published"),
        Patch(facecolor="#444444", label="measured"),
    ]

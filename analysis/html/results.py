"""The sections of the HTML report with charts and tables of results, each a list of elements."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any
from xml.etree.ElementTree import Element

import pandas as pd

from analysis.data.experiment import SUCCESS_MEASURES, Experiment, Measure
from analysis.data.run_times import measure_run_times
from analysis.data.scores import Scores
from analysis.drawing import curves, runtime
from analysis.drawing.tables import DASH, Cell, Table
from analysis.html import charts, svg
from analysis.html.markup import (
    Child,
    checkbox,
    element,
    folded,
    grid,
    prose,
    row,
)
from analysis.html.methods import Method, columns, heads
from analysis.html.sections import notice, sentence
from analysis.statistics.aggregates import AGGREGATES
from runners.cells.schema import PHASES

MAX_NUMBERS = 20
"""Evaluations that a table of a curve's numbers holds at most."""

UNFILTERED = "Filters leave out methods here; the tasks behind these numbers stay the same."


def learning_curves(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Draw a chart for each task and measure; the numbers of all are folded below."""
    figures: dict[str, list[Element]] = {task: [] for task in experiment.tasks}
    numbers: list[Element] = []
    longest = 0
    for measure in _drawn_measures(experiment):
        by_cell: dict[Any, pd.DataFrame] = dict(
            iter(curves.plotted(experiment, measure).groupby(["task", "label"]))
        )
        longest = max([longest, *(frame["env_step"].nunique() for frame in by_cell.values())])
        for task in experiment.tasks:
            if measure in experiment.measures(task):
                figures[task].append(_curve_figure(experiment, task, measure, by_cell, methods))
                numbers.append(_curve_numbers(experiment, task, measure, by_cell, methods))
    note = curves.FOOTER.format("mean return, or success rate in percent")
    if longest > charts.MAX_POINTS:
        note += f" Of a curve at most {charts.MAX_POINTS} of its {longest} evaluations are drawn."
    switches = element(
        "fieldset",
        element("legend", "Lines"),
        checkbox("lines", "seeds", "single seeds"),
        checkbox("lines", "bands", "bands"),
        class_="lines",
        data_script=True,
        hidden=True,
    )
    charts_of_tasks = _task_grid(experiment, figures)
    return [
        notice(experiment),
        prose(note),
        switches,
        charts_of_tasks,
        folded("Numbers of the curves", *numbers),
    ]


def results(
    experiment: Experiment, methods: Sequence[Method], tables: Sequence[Table]
) -> list[Child]:
    """Write tables of tasks by methods, each with a heading and its notes."""
    parts: list[Child] = []
    for table in tables:
        rows = []
        for task in table.rows:
            cells = [table.cells[task, method.name] for method in methods]
            winner = table.winner(task)
            tags = columns(methods)
            for tag, method in zip(tags[1:], methods, strict=True):
                tag["class_"] = "best" if method.name == winner else None
            texts = [task, *(cell.text(table.digits) for cell in cells)]
            values = [None, *(cell.value for cell in cells)]
            rows.append(row(texts, tags, values, data_task=experiment.tasks.index(task)))
        shown = grid(table.title, heads(table.corner, methods), rows, columns(methods))
        parts += [element("h3", table.title), shown, *_notes(table)]
    return parts


def run_times(
    experiment: Experiment, methods: Sequence[Method], tables: Sequence[Table]
) -> list[Child]:
    """Draw a chart of run times for each task; the tables of the phases are folded."""
    times = measure_run_times(experiment)
    figures = {
        task: [element("figure", charts.run_times(experiment, task, times, methods))]
        for task in experiment.tasks
    }
    legend = _legend([(svg.phase_swatch(phase), phase, None) for phase in PHASES])
    total, *phases = tables
    return [
        notice(experiment),
        prose(runtime.conditions(experiment)),
        legend,
        _task_grid(experiment, figures),
        *results(experiment, methods, [total]),
        folded("Tables of the phases", *results(experiment, methods, phases)),
    ]


def aggregates(
    experiment: Experiment, scores: Scores, methods: Sequence[Method], table: Table
) -> list[Child]:
    """Draw a chart for each aggregate, and one table with a row for each method."""
    figures = [
        element(
            "section",
            element("h3", aggregate),
            element("figure", charts.aggregates(scores, table, aggregate, methods)),
        )
        for aggregate in AGGREGATES
        if scores.estimates
    ]
    rows = []
    for method in methods:
        cells = [table.cells[aggregate, method.name] for aggregate in table.rows]
        texts = [method.name, *(cell.text(table.digits) for cell in cells)]
        values = [None, *(cell.value for cell in cells)]
        rows.append(row(texts, values=values, data_method=method.number))
    return [
        notice(experiment),
        element("p", UNFILTERED),
        element("div", *figures, class_="charts"),
        element("h3", table.title),
        grid(table.title, ["method", *table.rows], rows),
        *_notes(table),
    ]


def profiles(experiment: Experiment, scores: Scores, methods: Sequence[Method]) -> list[Child]:
    """Draw the performance profiles of all methods that are finished on all tasks."""
    drawn = [method for method in methods if method.label in scores.estimates]
    lacking = [
        f"{method.name} ({scores.lack(method.label)})" for method in methods if method not in drawn
    ]
    left_out = element("p", f"Left out: {', '.join(lacking)}.") if lacking else None
    if not drawn:
        return [left_out]
    note = (
        "The fraction of runs that score above τ, averaged over the tasks of the aggregates above. "
        f"Band: pointwise 95 % stratified bootstrap over seeds. Higher is better. {UNFILTERED}"
    )
    legend = [
        (svg.swatch(method.label, method.class_), f"{method.name} (n={n})", method)
        for method in drawn
        for n in [scores.seeds(method.label)]
    ]
    caption = element("figcaption", _legend(legend))
    figure = element("figure", charts.profiles(scores, drawn), caption, class_="wide")
    return [notice(experiment), element("p", note), left_out, figure]


def _drawn_measures(experiment: Experiment) -> list[Measure]:
    """Return the measures to draw: success at any step, if a task reports it, and the return."""
    first = next(iter(SUCCESS_MEASURES))
    return [first, "return"] if experiment.success_tasks else ["return"]


def _task_grid(experiment: Experiment, figures: Mapping[str, Sequence[Element]]) -> Element:
    """Set the figures of all tasks side by side."""
    blocks = [
        element("section", element("h3", task), *figures[task], data_task=number)
        for number, task in enumerate(experiment.tasks)
    ]
    return element("div", *blocks, class_="charts")


def _curve_figure(
    experiment: Experiment,
    task: str,
    measure: Measure,
    by_cell: Mapping[Any, pd.DataFrame],
    methods: Sequence[Method],
) -> Element:
    texts = curves.legend_texts(experiment, by_cell, task)
    legend = [
        (svg.swatch(method.label, method.class_), text, method)
        for method, text in zip(methods, texts, strict=True)
    ]
    chart = charts.learning_curves(experiment, task, measure, by_cell, methods)
    return element("figure", chart, element("figcaption", _legend(legend)))


def _curve_numbers(
    experiment: Experiment,
    task: str,
    measure: Measure,
    by_cell: Mapping[Any, pd.DataFrame],
    methods: Sequence[Method],
) -> Element:
    """Write the means of a chart's curves as a table."""
    frames = [
        charts.summary(by_cell[task, method.label]) if (task, method.label) in by_cell else None
        for method in methods
    ]
    steps = sorted(set().union(*(frame.index for frame in frames if frame is not None)))
    chosen = [steps[i] for i in charts.thinned(len(steps), MAX_NUMBERS)]
    rows = []
    for step in chosen:
        texts = [_point_text(frame, step) for frame in frames]
        rows.append(row([f"{step:,.0f}", *texts], columns(methods), [step]))
    subject = "Return" if measure == "return" else "Success rate in percent"
    title = f"{subject} on {task}, {len(chosen)} of {len(steps)} evaluations"
    table = grid(title, heads("environment steps", methods), rows, columns(methods))
    return element("section", element("h3", title), table, data_task=experiment.tasks.index(task))


def _point_text(frame: pd.DataFrame | None, step: float) -> str:
    """Return the mean over seeds at one evaluation."""
    if frame is None or step not in frame.index:
        return DASH
    mean, std, count = (frame[name][step] for name in ("mean", "std", "count"))
    if not isfinite(mean):
        return Cell(marks=("not finite",)).text(1)
    return Cell(mean, int(count), std if isfinite(std) else None).text(1)


def _legend(entries: Sequence[tuple[Element, str, Method | None]]) -> Element:
    """List samples, each with its text and the method that it belongs to."""
    items = [
        element("li", sample, text, data_method=method.number if method else None)
        for sample, text, method in entries
    ]
    return element("ul", *items, class_="legend")


def _notes(table: Table) -> list[Element]:
    notices = [sentence(table.notice)] if table.notice else []
    return [prose(note, class_="note") for note in (*notices, *table.notes)]

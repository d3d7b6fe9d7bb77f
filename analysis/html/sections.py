"""The sections of the HTML report, each a list of elements.

Elements that belong to a task or a method carry its number as data-task or data-method, by which
the filters of the page find them.
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any
from xml.etree.ElementTree import Element

import pandas as pd

from analysis import claims
from analysis.data import provenance
from analysis.data.load import SUCCESS_MEASURES, Experiment, Measure
from analysis.drawing import curves, runtime
from analysis.drawing.intervals import Comparison
from analysis.drawing.tables import DASH, Cell, Table
from analysis.html import charts, svg
from analysis.html.charts import Method
from analysis.html.markup import (
    Child,
    checkbox,
    command,
    definition_list,
    element,
    folded,
    grid,
    prose,
    row,
)
from analysis.statistics.aggregates import AGGREGATES

MAX_NUMBERS = 20
"""Evaluations that a table of a curve's numbers holds at most."""

MAX_MANIFESTS = 1000
"""Runs whose manifests are written out; more would make a page of many megabytes."""

UNFILTERED = "Filters leave out methods here; the tasks behind these numbers stay the same."


def notice(experiment: Experiment, **attributes: str) -> Element | None:
    """What a reduced protocol must say; None for a full one."""
    text = experiment.protocol.notice
    return prose(_sentence(text), class_="notice", **attributes) if text else None


def overview(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Shows protocol, size, and how many runs of each cell are in which state."""
    runs = experiment.runs
    facts = {
        "Cells": provenance.status_line(experiment),
        "Tasks": str(len(experiment.tasks)),
        "Methods": ", ".join(method.name for method in methods),
        "Seeds": ", ".join(str(seed) for seed in sorted(runs["seed"].unique())),
    }
    texts: dict[tuple[str, str], list[str]] = {}
    counts = runs.groupby(["task", "label", "status"]).size()
    for task, label, status, number in counts.reset_index().itertuples(index=False, name=None):
        texts.setdefault((task, label), []).append(f"{number} {status}")
    rows = [
        row(
            [task, *(", ".join(texts.get((task, method.label), [DASH])) for method in methods)],
            _columns(methods),
            data_task=number,
        )
        for number, task in enumerate(experiment.tasks)
    ]
    title = "Runs by status"
    return [
        prose(provenance.protocol_text(experiment)),
        definition_list(facts),
        element("h3", title),
        grid(title, _heads("task", methods), rows, _columns(methods)),
    ]


def unfinished(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Lists failed, diverged, unsupported, running and missing cells with their reasons."""
    found = provenance.unfinished(experiment)
    if not found:
        return [element("p", "All runs are done.")]
    tasks = {task: number for number, task in enumerate(experiment.tasks)}
    numbers = {method.label: method.number for method in methods}
    rows = [
        row(
            [task, label, seeds, status, str(evaluations), reason],
            data_task=tasks[task],
            data_method=numbers[label],
        )
        for task, label, seeds, status, evaluations, reason in found
    ]
    heads = ["task", "method", "seeds", "status", "evaluations", "reason"]
    return [grid("Cells that are not done, with reasons", heads, rows)]


def learning_curves(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Draws a chart for each task and measure; the numbers of all are folded below."""
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
    """Writes tables of tasks by methods, each with a heading and its notes."""
    parts: list[Child] = []
    for table in tables:
        rows = []
        for task in table.rows:
            cells = [table.cells[task, method.name] for method in methods]
            winner = table.winner(task)
            tags = _columns(methods)
            for tag, method in zip(tags[1:], methods, strict=True):
                tag["class_"] = "best" if method.name == winner else None
            texts = [task, *(cell.text(table.digits) for cell in cells)]
            values = [None, *(cell.value for cell in cells)]
            rows.append(row(texts, tags, values, data_task=experiment.tasks.index(task)))
        heads = _heads(table.corner, methods)
        shown = grid(table.title, heads, rows, _columns(methods))
        parts += [element("h3", table.title), shown, *_notes(table)]
    return parts


def run_times(
    experiment: Experiment, methods: Sequence[Method], tables: Sequence[Table]
) -> list[Child]:
    """Draws a chart of run times for each task; the tables of the phases are folded."""
    times = runtime.run_times(experiment)
    figures = {
        task: [element("figure", charts.run_times(experiment, task, times, methods))]
        for task in experiment.tasks
    }
    legend = _legend([(svg.phase_swatch(phase), phase, None) for phase in runtime.PHASES])
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
    experiment: Experiment, comparison: Comparison, methods: Sequence[Method], table: Table
) -> list[Child]:
    """Draws a chart for each aggregate, and one table with a row for each method."""
    figures = [
        element(
            "section",
            element("h3", aggregate),
            element("figure", charts.aggregates(comparison, table, aggregate, methods)),
        )
        for aggregate in AGGREGATES
        if comparison.estimates
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


def profiles(
    experiment: Experiment, comparison: Comparison, methods: Sequence[Method]
) -> list[Child]:
    """Draws the performance profiles of all methods that are finished on all tasks."""
    drawn = [method for method in methods if method.label in comparison.estimates]
    lacking = [
        f"{method.name} ({comparison.lack(method.label)})"
        for method in methods
        if method not in drawn
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
        for n in [comparison.seeds(method.label)]
    ]
    caption = element("figcaption", _legend(legend))
    figure = element("figure", charts.profiles(comparison, drawn), caption, class_="wide")
    return [notice(experiment), element("p", note), left_out, figure]


def claim_verdicts(findings: Sequence[claims.Finding]) -> list[Child]:
    """Writes what the runs say about the papers' claims; tests with a measurement are folded."""
    rows = [
        row([finding.claim.name, finding.word, claims.summary(finding)]) for finding in findings
    ]
    note = (
        "Judged by the runs of this experiment alone; filters change nothing here. The rules of "
        f"the verdicts, and all kept runs together: `{claims.COMMAND}`."
    )
    tests = [
        _tests(finding)
        for finding in findings
        if any(outcome.estimate is not None for outcome in finding.outcomes)
    ]
    table = grid("Claims and verdicts", ["claim", "verdict", "tests"], rows)
    return [prose(note), table, *tests]


def manifests(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Writes the manifest of each run, folded, below its task."""
    runs = experiment.runs
    if len(runs) > MAX_MANIFESTS:
        text = f"{len(runs):,} runs are too many for this page; each has its `run.json`."
        return [prose(text)]
    by_label = {method.label: method for method in methods}
    blocks: list[Child] = []
    for number, (task, group) in enumerate(runs.groupby("task", sort=False)):
        entries = [_manifest(run, by_label[run["label"]]) for _, run in group.iterrows()]
        title = f"{task}: {len(entries)} run{'' if len(entries) == 1 else 's'}"
        blocks.append(folded(title, *entries, data_task=number))
    return blocks


def reproduce(experiment: Experiment) -> list[Child]:
    """Says where the runs come from, and by which commands they can be made again."""
    origins = provenance.origins(experiment) or ["No cell has a readable manifest."]
    return [
        element("h3", "Where the runs come from"),
        element("ul", *(element("li", line) for line in origins)),
        element("h3", "Commands"),
        element("p", "To run the same cells again, with the code above and in an empty folder:"),
        command(provenance.sweep_commands(experiment), "Commands to run the cells again"),
        element("p", "To build this page from the files:"),
        command([provenance.report_command(experiment)], "Command to build this page"),
    ]


def _drawn_measures(experiment: Experiment) -> list[Measure]:
    """The measures to draw: success at any step, if a task reports it, and the return."""
    first = next(iter(SUCCESS_MEASURES))
    return [first, "return"] if experiment.success_tasks else ["return"]


def _task_grid(experiment: Experiment, figures: Mapping[str, Sequence[Element]]) -> Element:
    """Sets the figures of all tasks side by side."""
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
    """Writes the means of a chart's curves as a table."""
    frames = [
        charts.summary(by_cell[task, method.label]) if (task, method.label) in by_cell else None
        for method in methods
    ]
    steps = sorted(set().union(*(frame.index for frame in frames if frame is not None)))
    chosen = [steps[i] for i in charts.thinned(len(steps), MAX_NUMBERS)]
    rows = []
    for step in chosen:
        texts = [_point_text(frame, step) for frame in frames]
        rows.append(row([f"{step:,.0f}", *texts], _columns(methods), [step]))
    subject = "Return" if measure == "return" else "Success rate in percent"
    title = f"{subject} on {task}, {len(chosen)} of {len(steps)} evaluations"
    table = grid(title, _heads("environment steps", methods), rows, _columns(methods))
    return element("section", element("h3", title), table, data_task=experiment.tasks.index(task))


def _point_text(frame: pd.DataFrame | None, step: float) -> str:
    """The mean over seeds at one evaluation."""
    if frame is None or step not in frame.index:
        return DASH
    mean, std, count = (frame[name][step] for name in ("mean", "std", "count"))
    if not isfinite(mean):
        return Cell(marks=("not finite",)).text(1)
    return Cell(mean, int(count), std if isfinite(std) else None).text(1)


def _tests(finding: claims.Finding) -> Element:
    """Writes the tests of a claim, folded, and the commands for the cells that it lacks."""
    claim = finding.claim
    rows = [row(claims.test_row(outcome)) for outcome in finding.outcomes]
    parts: list[Child] = [
        prose(claims.said(claim)),
        grid(f"Tests of {claim.name}", claims.TEST_COLUMNS, rows),
    ]
    commands = claims.sweep_commands(finding)
    if commands:
        parts.append(element("p", "To run what is missing:"))
        parts.append(command(commands, f"Commands for what {claim.name} lacks"))
    return folded(f"{claim.name}: {finding.word}", *parts)


def _manifest(run: pd.Series, method: Method) -> Element:
    """Writes one run with all facts of its run.json, or why there are none."""
    try:
        facts = json.loads((run["path"] / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    known = {"status": run["status"], "reason": run["reason"] or None}
    if isinstance(facts, dict):
        known = facts | known
    texts = {str(name): _fact(value) for name, value in known.items() if value is not None}
    title = f"{method.name}, seed {run['seed']}: {run['status']}"
    return folded(title, definition_list(texts), data_method=method.number)


def _fact(value: Any) -> str:
    """Writes a value of a manifest; an object is a list of `name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _legend(entries: Sequence[tuple[Element, str, Method | None]]) -> Element:
    """Lists samples, each with its text and the method that it belongs to."""
    items = [
        element("li", sample, text, data_method=method.number if method else None)
        for sample, text, method in entries
    ]
    return element("ul", *items, class_="legend")


def _heads(corner: str, methods: Sequence[Method]) -> list[str]:
    return [corner, *(method.name for method in methods)]


def _columns(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """The attributes of a row's heading and of its cells, by which a filter hides a column."""
    return [{}, *({"data_method": method.number} for method in methods)]


def _notes(table: Table) -> list[Element]:
    notices = [_sentence(table.notice)] if table.notice else []
    return [prose(note, class_="note") for note in (*notices, *table.notes)]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

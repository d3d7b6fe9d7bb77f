"""The sections of the HTML report about the experiment, each a list of elements.

Elements that belong to a task or a method carry its number as data-task or data-method, by which
the filters of the page find them.
"""

import json
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

import pandas as pd

from analysis.data import provenance
from analysis.data.experiment import Experiment
from analysis.drawing.tables import DASH
from analysis.html.markup import (
    Child,
    command,
    definition_list,
    element,
    folded,
    grid,
    prose,
    row,
)
from analysis.html.methods import Method, columns, heads
from analysis.papers import claim_texts
from analysis.papers.claim_tests import Finding

MAX_MANIFESTS = 1000
"""Runs whose manifests are written out; more would make a page of many megabytes."""


def notice(experiment: Experiment, **attributes: str) -> Element | None:
    """Return what a reduced protocol must say; None for a full one."""
    text = experiment.protocol.notice
    return prose(sentence(text), class_="notice", **attributes) if text else None


def overview(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Show protocol, size, and how many runs of each cell are in which state."""
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
            columns(methods),
            data_task=number,
        )
        for number, task in enumerate(experiment.tasks)
    ]
    title = "Runs by status"
    return [
        prose(provenance.protocol_text(experiment)),
        definition_list(facts),
        element("h3", title),
        grid(title, heads("task", methods), rows, columns(methods)),
    ]


def unfinished(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """List failed, diverged, unsupported, running and missing cells with their reasons."""
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
    names = ["task", "method", "seeds", "status", "evaluations", "reason"]
    return [grid("Cells that are not done, with reasons", names, rows)]


def claim_verdicts(findings: Sequence[Finding]) -> list[Child]:
    """Write what the runs say about the papers' claims; tests with a measurement are folded."""
    rows = [
        row([finding.claim.name, finding.word, claim_texts.summary(finding)])
        for finding in findings
    ]
    note = (
        "Judged by the runs of this experiment alone; filters change nothing here. The rules of "
        f"the verdicts, and all kept runs together: `{claim_texts.COMMAND}`."
    )
    tests = [
        _tests(finding)
        for finding in findings
        if any(outcome.estimate is not None for outcome in finding.outcomes)
    ]
    table = grid("Claims and verdicts", ["claim", "verdict", "tests"], rows)
    return [prose(note), table, *tests]


def manifests(experiment: Experiment, methods: Sequence[Method]) -> list[Child]:
    """Write the manifest of each run, folded, below its task."""
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
    """Say where the runs come from, and by which commands they can be made again."""
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


def _tests(finding: Finding) -> Element:
    """Write the tests of a claim, folded, and the commands for the cells that it lacks."""
    claim = finding.claim
    rows = [row(claim_texts.describe_test(outcome)) for outcome in finding.outcomes]
    parts: list[Child] = [
        prose(claim_texts.said(claim)),
        grid(f"Tests of {claim.name}", claim_texts.TEST_COLUMNS, rows),
    ]
    commands = claim_texts.sweep_commands(finding)
    if commands:
        parts.append(element("p", "To run what is missing:"))
        parts.append(command(commands, f"Commands for what {claim.name} lacks"))
    return folded(f"{claim.name}: {finding.word}", *parts)


def _manifest(run: pd.Series, method: Method) -> Element:
    """Write one run with all facts of its run.json, or why there are none."""
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
    """Write a value of a manifest; an object is a list of `name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sentence(text: str) -> str:
    """Write a note as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."

"""Tables of the papers: a published number above the measured one, and what the two say."""

import dataclasses
from collections.abc import Sequence
from string import ascii_lowercase

import pandas as pd

from analysis.data.published import STATISTICS, Published, numbers, sources
from analysis.data.values import run_values
from analysis.drawing.tables import Cell, Table, seed_cell, seed_table
from analysis.papers.coverage import Coverage
from analysis.papers.targets import published_method
from analysis.papers.verdicts import Measured, verdict
from analysis.statistics.run_statistics import RUN_STATISTICS

TASKS_PER_TABLE = 5
RULES = (
    "Published: mean ± spread as printed. Measured: mean ± sample standard deviation over n seeds, "
    "finished runs only. Inside, above, below: where the measured mean lies with respect to the "
    "published mean ± spread (of the original cell where the printed one was copied wrongly)."
)


class Footnotes:
    """Letters for texts that are too long for a cell."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def letter(self, text: str) -> str:
        """Return the letter of a text, a new one for a text that is new."""
        number = len(self._letters)
        tens, ones = divmod(number, len(ascii_lowercase))
        name = (ascii_lowercase[tens - 1] if tens else "") + ascii_lowercase[ones]
        return self._letters.setdefault(text, name)

    def lines(self) -> list[str]:
        """List the texts behind their letters."""
        return [f"[{letter}] {text}." for text, letter in self._letters.items()]


class Measurements:
    """What was measured of a target, shorter runs where there are no others."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._values: dict[tuple[str, str], pd.DataFrame] = {}

    def of(self, task: str, label: str, statistic: str) -> Measured:
        """Sum up the runs of a task and a label."""
        target = self._coverage.target
        experiment = self._coverage.shorter.get((task, label), self._coverage.experiment)
        key = str(experiment.path), statistic
        if key not in self._values:
            values = run_values(experiment, statistic, target.measure)
            self._values[key] = values[values["seed"] < target.seeds]
        runs = self._values[key].query("task == @task and label == @label")
        return Measured(experiment, task, statistic, seed_cell(runs), target.measure)


def tables(coverage: Coverage) -> list[Table]:
    """Return the target's table, in parts of `TASKS_PER_TABLE` tasks."""
    tasks, values = coverage.target.tasks, Measurements(coverage)
    starts = range(0, len(tasks), TASKS_PER_TABLE)
    parts = [tasks[start : start + TASKS_PER_TABLE] for start in starts]
    return [
        _table(coverage, values, part, f" ({number} of {len(parts)})" if len(parts) > 1 else "")
        for number, part in enumerate(parts, start=1)
    ]


def measured_tables(coverage: Coverage) -> list[Table]:
    """Return one table of measured values for each statistic of a target."""
    target, experiment = coverage.target, coverage.experiment
    rate = target.measure != "return"
    found = []
    for statistic in target.statistics:
        values = run_values(experiment, statistic, target.measure)
        values = values.assign(value=100 * values["value"]) if rate else values
        kind = "success rate in percent" if rate else "return"
        title = f"{target.title}, {kind}, {RUN_STATISTICS[statistic].text}"
        found.append(
            seed_table(
                title,
                values,
                experiment.names,
                target.tasks,
                notice=coverage.notice,
                better="higher",
                notes=[note for note in (f"After {target.paper}.", target.note) if note],
            )
        )
    return found


def known(coverage: Coverage) -> list[Published]:
    """List the published numbers that belong to a target."""
    target = coverage.target
    return [
        number
        for number in numbers()
        if target.published
        and number.source == target.published
        and number.task in target.tasks
        and (not target.methods or number.method in target.methods)
    ]


def _table(coverage: Coverage, values: Measurements, tasks: Sequence[str], part: str) -> Table:
    target, footnotes = coverage.target, Footnotes()
    printed = {(x.method, x.task): x for x in known(coverage)}
    # Methods that are here come first, those of the paper alone below them.
    names = {x.method: x.printed for x in known(coverage)}
    here = {published_method(label): label for label in target.labels}
    cells: dict[tuple[str, str], Cell] = {}
    rows = []
    for method in [*here, *(name for name in names if name not in here)]:
        title = coverage.experiment.names[here[method]] if method in here else names[method]
        if method in names:
            row = f"{names[method]}, published"
            rows.append(row)
            for task in tasks:
                cells[row, task] = _published_cell(printed.get((method, task)), footnotes)
        for statistic in target.statistics if method in here else ():
            more = f" ({statistic})" if len(target.statistics) > 1 else ""
            row = f"{title}, measured{more}"
            rows.append(row)
            for task in tasks:
                number = printed.get((method, task))
                measured = values.of(task, here[method], statistic)
                cells[row, task] = _measured_cell(measured, number, footnotes)
    reported = "; ".join(f"{name}: {RUN_STATISTICS[name].text}" for name in target.statistics)
    notes = [RULES, f"Value of a run: {reported}.", _source(coverage), target.note]
    return Table(
        f"{target.title}{part}, {target.steps:,} steps, after {target.paper}",
        "method",
        rows,
        tasks,
        cells,
        [*(note for note in notes if note), *footnotes.lines()],
        coverage.notice,
    )


def _source(coverage: Coverage) -> str:
    """Say where the published numbers are from, how they were read, and what they are of."""
    reference = str(sources().at[coverage.target.published, "reference"])
    found = known(coverage)
    facts = {
        "read from": [number.reading for number in found],
        "environment": [number.environment for number in found],
        "steps": [f"{number.steps:,}" for number in found if number.steps],
        "statistic": [STATISTICS[number.statistic] for number in found],
    }
    parts = [f"{name}: {', '.join(dict.fromkeys(values))}" for name, values in facts.items()]
    return f"Published: {reference}; {'; '.join(parts)}."


def _published_cell(number: Published | None, footnotes: Footnotes) -> Cell:
    if number is None:
        return Cell(marks=("not printed",))
    if number.mean is None:
        return Cell(marks=(number.note,))
    texts, mark = [number.note] if number.note else [], ""
    if number.miscopied:
        original = Cell(number.original_mean, std=number.original_std).text(1).partition(" (")[0]
        mark = f"copied wrongly, original {original} "
        texts.insert(0, f"copied from {number.copied_from}")
    marks = [f"{mark}[{footnotes.letter('; '.join(texts))}]"] if texts else []
    return Cell(number.mean, number.seeds or "?", number.std, marks=tuple(marks))


def _measured_cell(measured: Measured, number: Published | None, footnotes: Footnotes) -> Cell:
    if measured.cell.value is None:
        return measured.cell
    judged = verdict(_original(number), measured)
    mark = judged.word
    if judged.reasons:
        mark += f" [{footnotes.letter(', '.join(judged.reasons))}]"
    return dataclasses.replace(measured.cell, marks=(mark, *measured.cell.marks))


def _original(number: Published | None) -> Published | None:
    """Return what the cell should say: the value that it was copied from."""
    if number is None or not number.miscopied:
        return number
    return dataclasses.replace(number, mean=number.original_mean, std=number.original_std)

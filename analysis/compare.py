"""What changed between two experiments, and what it did: `python -m analysis.compare A B`.

The tool for someone who changed an algorithm: run the same cells before and after, and compare.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.changes import Change, common_name, what_changed
from analysis.data.experiment import Experiment, Measure
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.data.run_times import measure_run_times
from analysis.data.values import run_values
from analysis.drawing.tables import Cell, Table, seed_cell
from analysis.statistics.effects import difference, ratio
from analysis.statistics.intervals import Estimate
from analysis.statistics.run_statistics import RUN_STATISTICS
from analysis.statistics.types import Array
from runners.cells.errors import EXIT_USAGE
from runners.cells.files import write_atomic

COMMAND = "python -m analysis.compare"


class CompareError(ValueError):
    """Two experiments cannot be compared as asked; the message is one line for the user."""


@dataclass(frozen=True)
class Effect:
    """What became of one method on one task.

    Attributes:
        task: task id.
        name: the method's name to print.
        measure: what was measured.
        before: mean and spread over the seeds of the first experiment.
        after: the same in the second.
        change: mean of the second minus that of the first, with its 95 % interval; None if one of
            them has no run that counts.
        pairs: number of seeds compared, which both experiments have; 0 if they have fewer than two
            in common and all were compared.
        identical: whether the evaluations of all compared seeds are equal to the last digit.
        times: seconds per 1000 environment steps in the two experiments.
        time_ratio: seconds of the second over those of the first; None without both.
    """

    task: str
    name: str
    measure: Measure
    before: Cell
    after: Cell
    change: Estimate | None
    pairs: int
    identical: bool
    times: tuple[Cell, Cell]
    time_ratio: Estimate | None

    @property
    def clear(self) -> bool:
        """Whether the interval of the change leaves out 0."""
        return self.change is not None and (self.change.low > 0 or self.change.high < 0)

    @property
    def verdict(self) -> str:
        """The change in a word or two."""
        if self.identical:
            return "identical"
        return "clear" if self.clear else "not clear"

    def fell(self, percent: float) -> bool:
        """Return whether the second is clearly lower, by more than this share of the first."""
        if self.change is None or self.before.value is None:
            return False
        return self.change.high < -percent / 100 * abs(self.before.value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 1 by `--fail-below`, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        before, after = load(options.before), load(options.after)
        matches = match(before, after, options.match)
        statistic = options.statistic or before.protocol.reported[0]
        effects = compare(before, after, matches, statistic)
        changes = what_changed(before, after, matches)
        notes = _notes(before, after, statistic, effects)
        if options.out:
            write_atomic(options.out, _page(before, after, changes, effects, notes))
    except (ExperimentError, CompareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    width = shutil.get_terminal_size((120, 24)).columns
    print("\n".join(["What changed:", *(f"  {text}" for text in _listed(changes)), ""]))
    print("\n".join(table.text(width) for table in tables(before, after, effects, notes)))
    fallen = [x for x in effects if options.fail_below is not None and x.fell(options.fail_below)]
    for effect in fallen:
        text = f"{effect.name} on {effect.task} fell by more than {options.fail_below:g} %"
        print(f"failed: {text}", file=sys.stderr)
    return 1 if fallen else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Say what changed between two experiments, and what it did."
    )
    parser.add_argument("before", type=Path, metavar="A", help="experiment folder")
    parser.add_argument("after", type=Path, metavar="B", help="experiment folder")
    parser.add_argument(
        "--match",
        nargs=2,
        action="append",
        default=[],
        metavar=("METHOD_A", "METHOD_B"),
        help="compare these methods, such as sac sac@tau=0.01 (default: those with the same name)",
    )
    parser.add_argument(
        "--statistic", help=f"value of a run: {', '.join(RUN_STATISTICS)} (default: as A reports)"
    )
    parser.add_argument(
        "--fail-below",
        type=float,
        metavar="PERCENT",
        help="exit code 1 if a method is clearly lower in B by more than this share of A",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write it as Markdown too")
    return parser


def match(
    before: Experiment, after: Experiment, wanted: Sequence[Sequence[str]] = ()
) -> list[tuple[str, str]]:
    """Return the labels to compare: those that are asked for, else those that both have.

    Raises:
        CompareError: a label is unknown, or the experiments have none in common.
    """
    for pair in wanted:
        for label, experiment in zip(pair, (before, after), strict=True):
            if label not in experiment.labels:
                valid = ", ".join(experiment.labels)
                raise CompareError(
                    f"no method '{label}' in experiment '{experiment.path}'; it has {valid}"
                )
    common = [(label, label) for label in before.labels if label in after.labels]
    pairs = [(first, second) for first, second in wanted] or common
    if not pairs:
        raise CompareError(
            f"no method is in both experiments: A has {', '.join(before.labels)}, B has "
            f"{', '.join(after.labels)}; say which to compare by --match METHOD_A METHOD_B"
        )
    return pairs


def compare(
    before: Experiment,
    after: Experiment,
    matches: Sequence[tuple[str, str]],
    statistic: str,
) -> list[Effect]:
    """Measure the change of each method on each task that both experiments have runs of.

    Args:
        before: the first experiment.
        after: the second.
        matches: the labels to compare, as (label in the first, label in the second).
        statistic: a name in `RUN_STATISTICS`.

    Raises:
        CompareError: the statistic is unknown, or the experiments have no task in common.
    """
    if statistic not in RUN_STATISTICS:
        valid = ", ".join(RUN_STATISTICS)
        raise CompareError(f"unknown statistic '{statistic}'; expected one of {valid}")
    tasks = [task for task in before.tasks if task in after.tasks]
    if not tasks:
        raise CompareError(
            f"no task is in both experiments: A has {', '.join(before.tasks)}, B has "
            f"{', '.join(after.tasks)}"
        )
    sides = [_Runs(experiment, statistic) for experiment in (before, after)]
    return [
        _effect(sides, task, labels, common_name(before, after, labels))
        for task in tasks
        for labels in matches
    ]


class _Runs:
    """The runs of one experiment, by task and label."""

    def __init__(self, experiment: Experiment, statistic: str):
        self.experiment = experiment
        measures = dict.fromkeys(experiment.measures(task)[0] for task in experiment.tasks)
        self._values = {
            measure: _groups(run_values(experiment, statistic, measure)) for measure in measures
        }
        times = measure_run_times(experiment)
        self._times = _groups(times.assign(value=times["total"]))
        self._curves = _groups(experiment.evaluations)

    def values(self, task: str, label: str, measure: Measure) -> pd.DataFrame:
        """Return the value and the mark of each run."""
        return _of(self._values[measure], task, label)

    def times(self, task: str, label: str) -> pd.DataFrame:
        """Return the run time and the mark of each run."""
        return _of(self._times, task, label)

    def evaluations(self, task: str, label: str, seeds: Sequence[int]) -> pd.DataFrame:
        """Return all evaluations of some seeds, in order."""
        rows = _of(self._curves, task, label)
        kept = rows[rows["seed"].isin(seeds)].drop(columns=["task", "label"])
        return kept.sort_values(["seed", "env_step", "episode"], ignore_index=True)


def _groups(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return {"": rows.iloc[:0], **dict(iter(rows.groupby(["task", "label"])))}


def _of(groups: Mapping[Any, pd.DataFrame], task: str, label: str) -> pd.DataFrame:
    return groups.get((task, label), groups[""])


def _effect(sides: Sequence[_Runs], task: str, labels: tuple[str, str], name: str) -> Effect:
    measure = sides[0].experiment.measures(task)[0]
    if measure not in sides[1].experiment.measures(task):
        measure = "return"
    unit = 1.0 if measure == "return" else 100.0
    both = list(zip(sides, labels, strict=True))
    runs = [side.values(task, label, measure) for side, label in both]
    before, after = (table.assign(value=unit * table["value"]) for table in runs)
    first, second, paired = _samples(before, after)
    times = [side.times(task, label) for side, label in both]
    first_time, second_time, paired_time = _samples(*times)
    seeds = sorted(set(_counted(before).index) & set(_counted(after).index))
    logs = [side.evaluations(task, label, seeds) for side, label in both]
    return Effect(
        task=task,
        name=name,
        measure=measure,
        before=seed_cell(before),
        after=seed_cell(after),
        change=difference(second, first, paired=paired) if len(first) and len(second) else None,
        pairs=len(first) if paired else 0,
        identical=bool(seeds) and logs[0].equals(logs[1]),
        times=(seed_cell(times[0]), seed_cell(times[1])),
        time_ratio=(
            ratio(second_time, first_time, paired=paired_time)
            if len(first_time) and len(second_time)
            else None
        ),
    )


def _counted(runs: pd.DataFrame) -> pd.Series:
    """Return the values of the runs that count, by seed."""
    return runs[runs["mark"] == ""].set_index("seed")["value"].sort_index()


def _samples(before: pd.DataFrame, after: pd.DataFrame) -> tuple[Array, Array, bool]:
    """Return the values to compare, and whether as pairs: of the common seeds if there are two."""
    first, second = _counted(before), _counted(after)
    common = first.index.intersection(second.index)
    if len(common) >= 2:
        return first[common].to_numpy(), second[common].to_numpy(), True
    return first.to_numpy(), second.to_numpy(), False


def tables(
    before: Experiment, after: Experiment, effects: Sequence[Effect], notes: Sequence[str]
) -> list[Table]:
    """Return the table of results and that of run times."""
    columns = [f"A: {before.name}", f"B: {after.name}"]
    rows = [f"{effect.task}, {effect.name}" for effect in effects]
    results: dict[tuple[str, str], Cell] = {}
    times: dict[tuple[str, str], Cell] = {}
    for row, effect in zip(rows, effects, strict=True):
        results[row, columns[0]], results[row, columns[1]] = effect.before, effect.after
        results[row, "B − A"] = _change_cell(effect)
        times[row, columns[0]], times[row, columns[1]] = effect.times
        times[row, "B / A"] = _ratio_cell(effect)
    notice = before.protocol.notice or after.protocol.notice
    timed = "Seconds per 1000 environment steps; of value only if the machines were equally busy."
    return [
        Table("Results", "task, method", rows, [*columns, "B − A"], results, notes, notice),
        Table(
            "Run time",
            "task, method",
            rows,
            [*columns, "B / A"],
            times,
            [timed],
            notice,
            digits=2,
        ),
    ]


def _change_cell(effect: Effect) -> Cell:
    if effect.change is None:
        return Cell()
    seeds = effect.pairs or f"{effect.before.n}/{effect.after.n}"
    return Cell(effect.change.point, seeds, interval=_ends(effect.change), marks=(effect.verdict,))


def _ratio_cell(effect: Effect) -> Cell:
    if effect.time_ratio is None:
        return Cell()
    seeds = f"{effect.times[0].n}/{effect.times[1].n}"
    return Cell(effect.time_ratio.point, seeds, interval=_ends(effect.time_ratio))


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return (estimate.low, estimate.high) if isfinite(estimate.high) else None


def _notes(
    before: Experiment, after: Experiment, statistic: str, effects: Sequence[Effect]
) -> list[str]:
    """Say how the changes were measured, and what speaks against reading them as effects."""
    clear = sum(effect.clear for effect in effects)
    compared = sum(effect.change is not None for effect in effects)
    notes = [
        f"Value of a run: {RUN_STATISTICS[statistic].text}; success rates in percent. Mean ± "
        "sample standard deviation over seeds; B − A with its 95 % interval, over pairs of the "
        "seeds that both have (Student), or over all seeds if fewer than two are common (Welch, "
        "n=A/B). Clear: the interval leaves out 0. Identical: so is every evaluation of the common "
        "seeds.",
        f"{clear} of {compared} changes are clear; if nothing had changed but chance, about 1 in "
        "20 would be.",
    ]
    if before.protocol.steps != after.protocol.steps:
        notes.append("The two have other budgets: the differences are not of a change alone.")
    return notes


def _listed(changes: Sequence[Change]) -> list[str]:
    return [str(change) for change in changes] or ["nothing that the manifests record"]


def _page(
    before: Experiment,
    after: Experiment,
    changes: Sequence[Change],
    effects: Sequence[Effect],
    notes: Sequence[str],
) -> str:
    """Write the comparison as a Markdown page."""
    lines = "\n".join(f"- {text}" for text in _listed(changes))
    body = "\n".join(table.markdown() for table in tables(before, after, effects, notes))
    title = f"# {before.name} (A) and {after.name} (B)"
    return f"{title}\n\n## What changed\n\n{lines}\n\n## What it did\n\n{body}"


if __name__ == "__main__":
    sys.exit(main())

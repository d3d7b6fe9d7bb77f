"""Reading an experiment folder into tidy frames.

What a run could not give is a row with a reason, not an exception: runs that failed, diverged, are
still running or are missing, empty files and a last line that is half written. Only a folder that
breaks the format raises `ExperimentError`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.data.cache import read_cached
from analysis.data.logs import ExperimentError, read_logs, read_table
from analysis.statistics.run_statistics import RUN_STATISTICS
from analysis.statistics.types import Array, Counts
from runners.cells.schema import EVALUATION_COLUMNS, SUCCESS_COLUMNS, TIMING_COLUMNS
from runners.cells.statuses import RECORDED

Measure = Literal["return", "success", "final_success"]
"""A column of an evaluation whose mean over the episodes is its result."""

SUCCESS_MEASURES: Mapping[Measure, str] = {"success": "any step", "final_success": "last step"}
"""The two readings of success: when in the episode the task has to be done."""

MEASURES: tuple[Measure, ...] = ("return", *SUCCESS_MEASURES)

RUN = ["task", "label", "seed"]
"""The columns that name a run."""

RunKey = tuple[str, str, int]

CELL_PATH = "<suite>/<task>/<algo>[@<variant>]/seed-<k>/"


@dataclass(frozen=True)
class Protocol:
    """The rules that the runs of an experiment followed.

    Attributes:
        name: Name of the protocol.
        reduced: True if cheaper than what papers report.
        steps: Length of a run in environment steps.
        eval_every: Environment steps between evaluations.
        eval_episodes: Episodes of one evaluation.
        reported: Names in `RUN_STATISTICS`; the first is the primary one.
        note: Free text.
    """

    name: str
    reduced: bool
    steps: int
    eval_every: int
    eval_episodes: int
    reported: tuple[str, ...]
    note: str

    @property
    def notice(self) -> str:
        """What every output of a reduced protocol must say; empty for a full one."""
        if not self.reduced:
            return ""
        return f"reduced protocol `{self.name}`: not comparable with published numbers"


@dataclass(frozen=True)
class Experiment:
    """All cells of an experiment folder.

    Attributes:
        path: The folder.
        name: The experiment's name.
        protocol: The rules its runs followed.
        runs: One row per cell: task, label, title, seed, status, reason, steps, evaluations (their
            number), code, machine, settings, wall_seconds, path. The status is one of
            `statuses.RECORDED`, `missing` (no run here, but the same seed ran elsewhere in the
            experiment) or `unreadable` (its run.json breaks the format).
        evaluations: One row per evaluation episode: task, label, seed, `EVALUATION_COLUMNS` and
            `SUCCESS_COLUMNS`; success is 0 or 1, NaN where the task does not report it.
        timing: One row per evaluation: task, label, seed and `TIMING_COLUMNS`, in seconds since
            the start of the run.
    """

    path: Path
    name: str
    protocol: Protocol
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    timing: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """Task ids in natural order."""
        return sorted(self.runs["task"].unique(), key=natural)

    @property
    def labels(self) -> list[str]:
        """Method labels, `<algo>[@<variant>]`, in natural order."""
        return sorted(self.runs["label"].unique(), key=natural)

    @cached_property
    def names(self) -> dict[str, str]:
        """The name to print for each label: the method's title and its variant."""
        titles = self.runs.groupby("label")["title"].first()
        names = {}
        for label in self.labels:
            algo, _, variant = label.partition("@")
            title = titles[label] or algo
            names[label] = f"{title} ({variant})" if variant else title
        repeated = {name for name in names.values() if list(names.values()).count(name) > 1}
        return {label: label if name in repeated else name for label, name in names.items()}

    @cached_property
    def success_tasks(self) -> list[str]:
        """The tasks with an evaluation that reports success, in natural order."""
        columns = list(SUCCESS_MEASURES)
        reporting = self.evaluations.loc[self.evaluations[columns].notna().any(axis=1), "task"]
        return sorted(reporting.unique(), key=natural)

    def measures(self, task: str) -> tuple[Measure, ...]:
        """Returns the measures that a task has, the one to judge it by first."""
        return (*SUCCESS_MEASURES, "return") if task in self.success_tasks else ("return",)

    def curves(self, measure: Measure = "return") -> pd.DataFrame:
        """Returns one row per evaluation: task, label, seed, env_step and the measure.

        Args:
            measure: What to average over the evaluation's episodes: `return`, in the task's reward
                units, or a rate in [0, 1], of `success` (at any step of the episode) or of
                `final_success` (at its last step). It is NaN if one episode is not finite, and so
                are the rates of a task that does not report success.
        """
        return self._results[[*RUN, "env_step", measure]]

    def run_curves(self, measure: Measure = "return") -> dict[RunKey, tuple[Array, Array]]:
        """Returns the curves of single runs.

        Args:
            measure: As in `curves`.

        Returns:
            For each (task, label, seed) with an evaluation, the environment steps [evaluations] in
            increasing order and the results [evaluations].
        """
        columns = self._results["env_step"].to_numpy(), self._results[measure].to_numpy()
        return {key: (columns[0][rows], columns[1][rows]) for key, rows in self._rows.items()}

    @cached_property
    def _results(self) -> pd.DataFrame:
        """One row per evaluation with all measures, sorted by run and step."""
        measures, keys = list(MEASURES), [*RUN, "env_step"]
        # The episodes of an evaluation stand together. So it is enough to sort and to number the
        # stretches of equal keys, a tenth of the rows or fewer, instead of all rows.
        first = np.zeros(len(self.evaluations), dtype=bool)
        for key in keys:
            values = self.evaluations[key].to_numpy()
            first[1:] |= values[1:] != values[:-1]
        first[:1] = True
        stretches = self.evaluations.loc[first, keys].groupby(keys, sort=True)
        lengths = np.diff(np.flatnonzero(first), append=len(first))
        numbers = np.repeat(stretches.ngroup().to_numpy(), lengths)
        episodes = self.evaluations[measures]
        groups = episodes.where(np.isfinite(episodes)).groupby(numbers)
        whole = groups.count().eq(groups.size(), axis=0)
        return stretches.size().index.to_frame(index=False).join(groups.mean().where(whole))

    @cached_property
    def _rows(self) -> dict[RunKey, slice]:
        """Where the evaluations of each run are in `_results`."""
        numbers = self._results.groupby(RUN, sort=True).size()
        ends = numbers.cumsum()
        slices = map(slice, ends - numbers, ends)
        return dict(zip(numbers.index, slices, strict=True))

    def train(self, task: str, label: str, seed: int) -> pd.DataFrame:
        """Reads the training log of one cell: env_step and the method's own metric columns.

        Raises:
            ExperimentError: The file's header does not start with env_step.
        """
        return read_table(self.path / task / label / f"seed-{seed}" / "train.csv", ["env_step"])


def natural(text: str) -> list[tuple[int, int, str]]:
    """Returns a sort key by which `x=3` comes before `x=10`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def load(path: Path) -> Experiment:
    """Loads the experiment in folder `path`.

    Raises:
        ExperimentError: The folder is missing, is no experiment, holds no cell, or holds a file
            that breaks the format.
    """
    name, protocol = _read_experiment(path)
    cells = _find_cells(path)
    evaluations, counts = _read_all(
        path, cells, "evaluations.csv", list(EVALUATION_COLUMNS), SUCCESS_COLUMNS
    )
    timing, _ = _read_all(path, cells, "timing.csv", list(TIMING_COLUMNS))
    numbers = _count_evaluations(evaluations["env_step"].to_numpy(), counts)
    rows = [
        _read_run(*cell) | {"evaluations": number}
        for cell, number in zip(cells, numbers, strict=True)
    ]
    runs = pd.DataFrame([*rows, *_missing_rows(path, rows)]).sort_values(RUN, ignore_index=True)
    return Experiment(path, name, protocol, runs, evaluations, timing)


def _read_experiment(path: Path) -> tuple[str, Protocol]:
    """Reads experiment.json."""
    if not path.is_dir():
        raise ExperimentError(f"no experiment folder '{path}'; {_experiments_in(path.parent)}")
    file = path / "experiment.json"
    if not file.exists():
        raise ExperimentError(
            f"'{path}' is not an experiment (no experiment.json); {_experiments_in(path)}"
        )
    data = _read_json(file)
    try:
        if data["format"] != 1:
            raise ExperimentError(f"{file} has format {data['format']!r}; expected 1")
        facts = data["protocol"]
        protocol = Protocol(
            name=str(facts["name"]),
            reduced=bool(facts["reduced"]),
            steps=int(facts["steps"]),
            eval_every=int(facts["eval_every"]),
            eval_episodes=int(facts["eval_episodes"]),
            reported=tuple(part.strip() for part in facts["reported"].split(",")),
            note=str(facts.get("note") or ""),
        )
        name = str(data["name"])
    except KeyError as error:
        raise ExperimentError(f"{file} has no field {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ExperimentError(f"{file} breaks the format: {error}") from error
    for statistic in protocol.reported:
        if statistic not in RUN_STATISTICS:
            valid = ", ".join(RUN_STATISTICS)
            raise ExperimentError(f"{file} reports '{statistic}'; expected some of {valid}")
    return name, protocol


def _experiments_in(folder: Path) -> str:
    """Says which experiments a folder holds, for an error message."""
    names = sorted(file.parent.name for file in folder.glob("*/experiment.json"))
    if not names:
        return "expected a folder with an experiment.json, such as results/quick"
    return f"experiments in '{folder}': {', '.join(names)}"


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExperimentError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExperimentError(f"{path} holds a {type(data).__name__}; expected an object")
    return data


def _find_cells(path: Path) -> list[tuple[str, str, int, Path]]:
    """Lists the cells as (task, label, seed, folder)."""
    cells = []
    for folder in sorted(path.glob("*/*/*/seed-*")):
        suite, task, label, seed = folder.relative_to(path).parts
        hidden = suite.startswith(".")
        if not hidden and folder.is_dir() and re.fullmatch(r"seed-\d+", seed):
            cells.append((f"{suite}/{task}", label, int(seed.removeprefix("seed-")), folder))
    if not cells:
        raise ExperimentError(f"experiment '{path}' holds no run; expected folders {CELL_PATH}")
    return cells


def _read_all(
    path: Path,
    cells: list[tuple[str, str, int, Path]],
    file: str,
    columns: list[str],
    further: Sequence[str] = (),
) -> tuple[pd.DataFrame, Counts]:
    """Joins one CSV file of all cells, with the cell's task, label and seed in front.

    Returns:
        The joined table, and the number of its rows of each cell.
    """
    files = [folder / file for *_, folder in cells]
    table, counts = read_cached(path, files, partial(read_logs, columns=columns, further=further))
    for position, key in enumerate(("task", "label", "seed")):
        values = np.array(
            [cell[position] for cell in cells], dtype=int if key == "seed" else object
        )
        table.insert(position, key, np.repeat(values, counts))
    return table, counts


def _count_evaluations(steps: Array, counts: Counts) -> list[int]:
    """Counts the evaluations of each cell.

    Args:
        steps: The environment step of each episode, cell after cell.
        counts: The number of episodes of each cell.
    """
    cells = np.repeat(np.arange(len(counts)), counts)
    # The episodes of an evaluation stand together, so the first of them is enough to count it.
    first = np.ones(len(steps), dtype=bool)
    first[1:] = (steps[1:] != steps[:-1]) | (cells[1:] != cells[:-1])
    evaluations = pd.DataFrame({"cell": cells[first], "step": steps[first]}).drop_duplicates()
    return np.bincount(evaluations["cell"], minlength=len(counts)).tolist()


def _read_run(task: str, label: str, seed: int, folder: Path) -> dict[str, Any]:
    """Reads run.json into a row of `Experiment.runs`."""
    row: dict[str, Any] = _empty_row(task, label, seed, folder)
    if not (folder / "run.json").exists():
        return row | {"status": "missing", "reason": "no run.json"}
    try:
        data = _read_json(folder / "run.json")
        if data.get("status") not in RECORDED:
            valid = ", ".join(RECORDED)
            raise ExperimentError(f"run.json has status {data.get('status')!r}; expected {valid}")
    except ExperimentError as error:
        return row | {"status": "unreadable", "reason": " ".join(str(error).split())}
    settings = {key: data.get(key) for key in ("precision", "device", "threads")}
    return row | {
        "title": str(data["title"]) if data.get("title") else None,
        "status": data["status"],
        "reason": " ".join(str(data.get("reason") or "").split()),
        "steps": data.get("steps"),
        "code": _describe_code(data.get("code")),
        "machine": _describe(data.get("machine")),
        "settings": _describe(settings),
        "wall_seconds": data.get("wall_seconds"),
    }


def _empty_row(task: str, label: str, seed: int, folder: Path) -> dict[str, Any]:
    """A row of `Experiment.runs` about which nothing is known yet."""
    return {
        "task": task,
        "label": label,
        "title": None,
        "seed": seed,
        "status": "",
        "reason": "",
        "steps": None,
        "evaluations": 0,
        "code": "",
        "machine": "",
        "settings": "",
        "wall_seconds": None,
        "path": folder,
    }


def _missing_rows(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for the cells that a complete grid of tasks, methods and seeds would also hold."""
    present = {(row["task"], row["label"], row["seed"]) for row in rows}
    tasks, labels, seeds = (sorted({key[i] for key in present}) for i in range(3))
    reason = "no run; other cells of this experiment have this seed"
    return [
        _empty_row(task, label, seed, path / task / label / f"seed-{seed}")
        | {"status": "missing", "reason": reason}
        for task in tasks
        for label in labels
        for seed in seeds
        if (task, label, seed) not in present
    ]


def _describe(facts: Any) -> str:
    """Writes the facts of a manifest on one line."""
    if not isinstance(facts, dict):
        return str(facts or "")
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)


def _describe_code(code: Any) -> str:
    """Writes the code version of a manifest: version, commit, and whether it was modified."""
    if not isinstance(code, dict):
        return str(code or "")
    commit = f"commit {code['commit']}" if code.get("commit") else "no commit"
    modified = ", with uncommitted changes" if code.get("dirty") else ""
    return f"{code.get('version', 'unknown version')}, {commit}{modified}"

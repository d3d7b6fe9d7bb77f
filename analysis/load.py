"""Reading an experiment folder into tidy frames.

What a run could not give is a row with a reason, not an exception: runs that failed, diverged, are
still running or are missing, empty files and a last line that is half written. Only a folder that
breaks the format raises `ExperimentError`.
"""

import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import RUN_STATISTICS

EVALUATION_COLUMNS = ["env_step", "episode", "return", "length", "success"]
TIMING_COLUMNS = ["env_step", "env", "act", "update", "eval"]
STATUSES = ("running", "done", "failed", "diverged", "unsupported")
CELL_PATH = "<suite>/<task>/<algo>[@<variant>]/seed-<k>/"


class ExperimentError(Exception):
    """An experiment folder is not what it should be; the message is one line for the user."""


@dataclass(frozen=True)
class Protocol:
    """The rules that the runs of an experiment followed.

    Attributes:
        name: Name of the protocol.
        reduced: True if cheaper than what papers report.
        steps: Length of a run in environment steps.
        eval_every: Environment steps between evaluations.
        eval_episodes: Episodes of one evaluation.
        reported: Names in `stats.RUN_STATISTICS`; the first is the primary one.
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
            number), code, machine, settings, wall_seconds, path. The status is one of `STATUSES`,
            `missing` (no run here, but the same seed ran elsewhere in the experiment) or
            `unreadable` (its run.json breaks the format).
        evaluations: One row per evaluation episode: task, label, seed and `EVALUATION_COLUMNS`.
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

    def curves(self) -> pd.DataFrame:
        """Returns one row per evaluation: task, label, seed, env_step, return.

        The return is the mean over the evaluation's episodes, NaN if one of them is not finite.
        """
        keys = ["task", "label", "seed", "env_step"]
        episodes = self.evaluations[[*keys, "return"]].assign(
            finite=np.isfinite(self.evaluations["return"])
        )
        groups = episodes.groupby(keys, as_index=False, sort=True)
        means = groups.agg({"return": "mean", "finite": "all"})
        means["return"] = means["return"].where(means["finite"])
        return means.drop(columns="finite")

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
    evaluations = _read_all(cells, "evaluations.csv", EVALUATION_COLUMNS)
    timing = _read_all(cells, "timing.csv", TIMING_COLUMNS)
    rows = [_read_run(*cell) for cell in cells]
    runs = pd.DataFrame([*rows, *_missing_rows(path, rows)])
    keys = ["task", "label", "seed"]
    numbers = evaluations.groupby(keys)["env_step"].nunique().rename("evaluations").reset_index()
    runs = runs.merge(numbers, on=keys, how="left").fillna({"evaluations": 0})
    runs["evaluations"] = runs["evaluations"].astype(int)
    runs = runs.sort_values(keys, ignore_index=True)
    return Experiment(path, name, protocol, runs, evaluations, timing)


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Reads a CSV file that may still be growing.

    Args:
        path: The file; one that does not exist is an empty table.
        columns: The columns that its header must start with.

    Returns:
        The complete lines as floats; a last line without its line break is left out.

    Raises:
        ExperimentError: The header is another one, or a line cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return pd.DataFrame(columns=columns, dtype=float)
    header, *lines = text.splitlines()
    if header.split(",")[: len(columns)] != columns:
        raise ExperimentError(f"{path} has the header '{header}'; expected '{','.join(columns)}'")
    for position, line in enumerate(lines, start=2):
        if line.count(",") != header.count(","):
            raise ExperimentError(f"{path}, line {position}: '{line}' does not fit '{header}'")
    try:
        table = pd.read_csv(io.StringIO(text), dtype=float)
    except ValueError as error:
        problem = " ".join(str(error).split())
        raise ExperimentError(f"{path} cannot be read as numbers: {problem}") from error
    if table["env_step"].isna().any():
        position = int(table["env_step"].isna().to_numpy().argmax()) + 2
        raise ExperimentError(f"{path}, line {position}: env_step is empty; expected a number")
    return table


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
        if folder.is_dir() and re.fullmatch(r"seed-\d+", seed):
            cells.append((f"{suite}/{task}", label, int(seed.removeprefix("seed-")), folder))
    if not cells:
        raise ExperimentError(f"experiment '{path}' holds no run; expected folders {CELL_PATH}")
    return cells


def _read_all(
    cells: list[tuple[str, str, int, Path]], file: str, columns: list[str]
) -> pd.DataFrame:
    """Joins one CSV file of all cells, with the cell's task, label and seed in front."""
    tables = []
    for task, label, seed, folder in cells:
        table = read_table(folder / file, columns)
        if list(table.columns) != columns:
            header, expected = ",".join(table.columns), ",".join(columns)
            raise ExperimentError(
                f"{folder / file} has the header '{header}'; expected '{expected}'"
            )
        keys = pd.DataFrame({"task": task, "label": label, "seed": seed}, index=table.index)
        tables.append(pd.concat([keys, table], axis=1))
    # pandas warns about the dtypes of empty frames, so only one of them is kept, if all are empty.
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _read_run(task: str, label: str, seed: int, folder: Path) -> dict[str, Any]:
    """Reads run.json into a row of `Experiment.runs`."""
    row: dict[str, Any] = _empty_row(task, label, seed, folder)
    if not (folder / "run.json").exists():
        return row | {"status": "missing", "reason": "no run.json"}
    try:
        data = _read_json(folder / "run.json")
        if data.get("status") not in STATUSES:
            valid = ", ".join(STATUSES)
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

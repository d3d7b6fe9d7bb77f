"""Reading an experiment folder into tidy frames.

What a run could not give is a row with a reason, not an exception: runs that failed, diverged, are
still running or are missing, empty files and a last line that is half written. Only a folder that
breaks the format raises `ExperimentError`.
"""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.cache import read_cached
from analysis.data.experiment import RUN, Experiment, ProtocolRecord
from analysis.data.logs import ExperimentError, read_logs
from analysis.statistics.run_statistics import RUN_STATISTICS
from analysis.statistics.types import Array, Counts
from runners.cells.schema import EVALUATION_COLUMNS, FORMAT, SUCCESS_COLUMNS, TIMING_COLUMNS
from runners.cells.statuses import RECORDED

CELL_PATH = "<suite>/<task>/<algo>[@<variant>]/seed-<k>/"


def load(path: Path) -> Experiment:
    """Load the experiment in folder `path`.

    Raises:
        ExperimentError: the folder is missing, is no experiment, holds no cell, or holds a file
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


def _read_experiment(path: Path) -> tuple[str, ProtocolRecord]:
    """Read experiment.json."""
    if not path.is_dir():
        raise ExperimentError(f"no experiment folder '{path}'; {_experiments_in(path.parent)}")
    file = path / "experiment.json"
    if not file.exists():
        raise ExperimentError(
            f"'{path}' is not an experiment (no experiment.json); {_experiments_in(path)}"
        )
    data = _read_json(file)
    try:
        if data["format"] != FORMAT:
            raise ExperimentError(f"{file} has format {data['format']!r}; expected {FORMAT}")
        facts = data["protocol"]
        protocol = ProtocolRecord(
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
    """Say which experiments a folder holds, for an error message."""
    names = sorted(file.parent.name for file in folder.glob("*/experiment.json"))
    if not names:
        return "expected a folder with an experiment.json, such as results/quick"
    return f"experiments in '{folder}': {', '.join(names)}"


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExperimentError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExperimentError(f"{path} holds a {type(data).__name__}; expected an object")
    return data


def _find_cells(path: Path) -> list[tuple[str, str, int, Path]]:
    """List the cells as (task, label, seed, folder)."""
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
    """Join one CSV file of all cells, with the cell's task, label and seed in front.

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
    """Count the evaluations of each cell.

    Args:
        steps: the environment step of each episode, cell after cell.
        counts: the number of episodes of each cell.
    """
    cells = np.repeat(np.arange(len(counts)), counts)
    # The episodes of an evaluation stand together, so the first of them is enough to count it.
    first = np.ones(len(steps), dtype=bool)
    first[1:] = (steps[1:] != steps[:-1]) | (cells[1:] != cells[:-1])
    evaluations = pd.DataFrame({"cell": cells[first], "step": steps[first]}).drop_duplicates()
    return np.bincount(evaluations["cell"], minlength=len(counts)).tolist()


def _read_run(task: str, label: str, seed: int, folder: Path) -> dict[str, Any]:
    """Read run.json into a row of `Experiment.runs`."""
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
    """Return a row of `Experiment.runs` about which nothing is known yet."""
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
    """Return rows for the cells that a complete grid of tasks, methods and seeds also holds."""
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
    """Write the facts of a manifest on one line."""
    if not isinstance(facts, dict):
        return str(facts or "")
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)


def _describe_code(code: Any) -> str:
    """Write the code version of a manifest: version, commit, and whether it was modified."""
    if not isinstance(code, dict):
        return str(code or "")
    commit = f"commit {code['commit']}" if code.get("commit") else "no commit"
    modified = ", with uncommitted changes" if code.get("dirty") else ""
    return f"{code.get('version', 'unknown version')}, {commit}{modified}"

"""How far the cells of an experiment are, read from its files alone; nothing is changed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from runners.cells.errors import UserError
from runners.cells.statuses import FINAL, RECORDED
from runners.storage.lease import Holder, holder
from runners.storage.requested import read_requested

KEY = re.compile(r"[^/]+/[^/]+/[^/]+/seed-\d+")  # of a run directory, below the experiment
BYTES_PER_ROW = 128  # more than a row of evaluations.csv or timing.csv takes


@dataclass(frozen=True)
class CellStatus:
    """One cell, as its files say.

    Attributes:
        task: task id.
        label: method, `<algo>[@<variant>]`.
        seed: seed index.
        status: one of `statuses.SHOWN`.
        reason: one line for a status that needs one.
        step: environment steps done.
        last_return: mean return of the last evaluation.
        rate: steps per second of late, None where nothing tells.
        seconds: wall time of its processes so far, as of run.json.
        holder: the process that has it, None if none does.
        notices: what a person should know of the run.
    """

    task: str
    label: str
    seed: int
    status: str
    reason: str = ""
    step: int = 0
    last_return: float | None = None
    rate: float | None = None
    seconds: float = 0.0
    holder: Holder | None = None
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Short name for people, as everywhere else."""
        return f"{self.task} {self.label} seed {self.seed}"


@dataclass(frozen=True)
class Disk:
    """Bytes on disk below an experiment folder."""

    checkpoints: int
    total: int


@dataclass(frozen=True)
class ExperimentStatus:
    """An experiment at one moment.

    Attributes:
        path: its folder.
        protocol: name of its protocol.
        steps: environment steps of each cell.
        cells: all that have a folder or were asked for, in order of their names.
        disk: what it takes.
    """

    path: Path
    protocol: str
    steps: int
    cells: tuple[CellStatus, ...]
    disk: Disk

    def having(self, *statuses: str) -> list[CellStatus]:
        """Return the cells with one of these statuses, in order of the statuses."""
        return [cell for status in statuses for cell in self.cells if cell.status == status]

    @cached_property
    def methods(self) -> dict[tuple[str, str], list[CellStatus]]:
        """The cells of each task and method."""
        groups: dict[tuple[str, str], list[CellStatus]] = {}
        for cell in self.cells:
            groups.setdefault((cell.task, cell.label), []).append(cell)
        return groups

    def eta(self, cell: CellStatus) -> float | None:
        """Seconds to the end of a running cell at its present rate."""
        return max(0, self.steps - cell.step) / cell.rate if cell.rate else None

    @property
    def total_eta(self) -> float | None:
        """Seconds until all is done if as many cells run at a time as now; None if none runs.

        A cell that has not begun is taken to be as fast as others of its task and method, or
        else as all others.
        """
        running = self.having("running")
        left = self.having("running", "waiting", "interrupted")
        paces = {key: pace for key, cells in self.methods.items() if (pace := self._pace(cells))}
        if not running or not paces:
            return None
        usual = mean(paces.values())
        seconds = sum(
            (self.steps - cell.step) * paces.get((cell.task, cell.label), usual) for cell in left
        )
        longest = max((self.eta(cell) or 0.0) for cell in running)
        return max(seconds / len(running), longest)

    def _pace(self, cells: Iterable[CellStatus]) -> float | None:
        """Seconds per step of a method on a task, from its running cells or else the done ones."""
        cells = list(cells)
        found = [1.0 / cell.rate for cell in cells if cell.status == "running" and cell.rate]
        found = found or [cell.seconds / self.steps for cell in cells if cell.status == "done"]
        return mean(found) if found else None


@dataclass
class _Protocol:
    """What experiment.json says of every cell."""

    name: str
    steps: int
    episodes: int
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


def read_status(path: Path) -> ExperimentStatus:
    """Look at an experiment folder.

    Raises:
        UserError: it is none, or its experiment.json or its list of cells cannot be read.
    """
    protocol = _read_protocol(path)
    begun = {folder.relative_to(path).as_posix() for folder in path.glob("[!.]*/*/*/seed-*")}
    keys = [key for key in begun | read_requested(path) if KEY.fullmatch(key)]
    cells = sorted((_look(path, key, protocol) for key in keys), key=_order)
    return ExperimentStatus(path, protocol.name, protocol.steps, tuple(cells), disk_use(path))


def _order(cell: CellStatus) -> tuple[str, str, int]:
    return cell.task, cell.label, cell.seed


def _read_protocol(path: Path) -> _Protocol:
    file = path / "experiment.json"
    if not file.is_file():
        folder = path.parent
        names = sorted(other.parent.name for other in folder.glob("*/experiment.json"))
        known = f"experiments in {folder} are {', '.join(names)}" if names else f"none in {folder}"
        raise UserError(f"no experiment {path}: {known}")
    try:
        protocol = json.loads(file.read_text())["protocol"]
        steps, episodes = int(protocol["steps"]), int(protocol["eval_episodes"])
        return _Protocol(str(protocol["name"]), steps, episodes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _look(experiment: Path, key: str, protocol: _Protocol) -> CellStatus:
    """One cell; `key` is its run directory relative to the experiment."""
    task, label, seed = key.rsplit("/", 2)
    names = (task, label, int(seed.removeprefix("seed-")))
    try:
        return _read(experiment / key, names, protocol)
    except (OSError, LookupError, TypeError, ValueError) as error:
        return CellStatus(
            *names, "unreadable", " ".join(f"{type(error).__name__}: {error}".split())
        )


def _read(folder: Path, names: tuple[str, str, int], protocol: _Protocol) -> CellStatus:
    record = _read_record(folder / "run.json")
    status = str(record["status"])
    has = None if status in FINAL else holder(folder / "checkpoint")
    if has is not None and has.alive:
        status = "running"  # a cell that had failed may be run once more
    else:
        has = None
        status = "interrupted" if status == "running" else status
    step, last_return = _last_evaluation(folder, protocol.episodes)
    if has is not None:
        step = max(step, has.step)
        last_return = last_return if has.last_return is None else has.last_return
    return CellStatus(
        *names,
        status,
        "" if status == "running" else str(record.get("reason") or ""),
        step,
        last_return,
        None if has is None else _rate(folder, has, bool(record.get("resumed")), protocol.now),
        float(record.get("wall_seconds", 0.0)),
        has,
        tuple(map(str, record.get("notices", ()))),
    )


def _read_record(file: Path) -> Mapping[str, Any]:
    """run.json, of which a cell that has not begun has none."""
    try:
        record: Mapping[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {"status": "waiting"}
    if record["status"] not in RECORDED:
        raise ValueError(f"run.json has status {record['status']!r}")
    return record


def _last_evaluation(folder: Path, episodes: int) -> tuple[int, float | None]:
    """Step and mean return of the last evaluation in evaluations.csv."""
    rows = _last_rows(folder / "evaluations.csv", episodes)
    last = [row for row in rows if row[0] == rows[-1][0]]
    return (int(last[0][0]), mean(float(row[2]) for row in last)) if last else (0, None)


def _rate(folder: Path, has: Holder, resumed: bool, now: datetime) -> float | None:
    """Return steps per second between the last two evaluations, or before the first."""
    rows = [[float(text) for text in row] for row in _last_rows(folder / "timing.csv", 2)]
    if rows:
        before = rows[0] if len(rows) > 1 else [0.0]
        steps, seconds = rows[-1][0] - before[0], sum(rows[-1][1:]) - sum(before[1:])
    elif resumed:  # the claim began in mid-run
        return None
    else:
        begun = datetime.fromisoformat(has.started)
        steps, seconds = has.step, (now - begun).total_seconds() - has.age
    return steps / seconds if steps > 0 and seconds > 0 else None


def _last_rows(file: Path, count: int) -> list[list[str]]:
    """Return the last whole rows of a CSV file, at most `count`, without its header."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - BYTES_PER_ROW * (count + 1)))
            lines = stream.read().decode(errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    # The first line is the header or the end of a row; the last is empty or half written.
    return [line.split(",") for line in lines[1:-1]][-count:]


def disk_use(path: Path) -> Disk:
    """Return what the files below a folder take; files that vanish meanwhile count nothing."""
    checkpoints = total = 0
    for folder, _, files in os.walk(path):
        taken = sum(map(_blocks, (os.path.join(folder, file) for file in files)))
        total += taken
        if "checkpoint" in Path(folder).relative_to(path).parts:
            checkpoints += taken
    return Disk(checkpoints, total)


def _blocks(file: str) -> int:
    try:
        return 512 * os.lstat(file).st_blocks
    except FileNotFoundError:
        return 0

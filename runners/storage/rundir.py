"""Experiment folders and run directories: where cells live and what identifies them.

    results/<experiment>/experiment.json
    results/<experiment>/<suite>/<task>/<algo>[@<variant>]/seed-<k>/
        run.json  evaluations.csv  train.csv  timing.csv  checkpoint/  policy/

The folder is the only state of a sweep. The CSV files of `evaluations` and `train` hold
no clock, so that the same cell gives the same bytes twice on one machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.cells.files import sync, write_atomic
from runners.cells.protocols import Protocol
from runners.cells.schema import CSV_FILES, FORMAT
from runners.storage.lease import Lease


def experiment_folder(text: str) -> Path:
    """Return the folder of an experiment: a bare name is one of `results/`."""
    return Path(text) if os.sep in text else Path("results") / text


def open_experiment(path: Path, protocol: Protocol) -> None:
    """Make the experiment folder, or check that it follows the same protocol.

    Raises:
        UserError: the folder is something else, or of another format or protocol.
    """
    file = path / "experiment.json"
    wanted = {"format": FORMAT, "name": path.name, "protocol": protocol.manifest()}
    # In this order: another sweep may be making it at this moment.
    foreign = path.exists() and (not path.is_dir() or any(path.glob("[!.]*")))
    if file.exists():
        _check_experiment(file, wanted)
        return
    if foreign:
        raise UserError(f"--experiment {path}: exists and is no experiment (no experiment.json)")
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--experiment {path}: cannot write ({error.strerror})") from None


def _check_experiment(file: Path, wanted: Mapping[str, Any]) -> None:
    folder = file.parent
    try:
        found = json.loads(file.read_text())
        version, protocol = found["format"], dict(found["protocol"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--experiment {folder}: experiment.json cannot be read") from None
    if version != FORMAT:
        raise UserError(
            f"--experiment {folder}: made in format {version}, this version reads {FORMAT}; "
            "choose another folder"
        )
    for key, value in wanted["protocol"].items():
        if key != "note" and protocol.get(key) != value:
            raise UserError(
                f"--experiment {folder}: holds cells with {key}={protocol.get(key)}, "
                f"not {value}; choose another --experiment"
            )


class RunDirectory:
    """Files of one cell.

    CSV rows are kept as text in memory too: a checkpoint stores them, so that a file
    that lost its end in a power cut is written again from the checkpoint.
    """

    def __init__(self, cell: Cell, experiment: Path) -> None:
        self.cell = cell
        self.path = cell.path(experiment)
        self.text = dict.fromkeys(CSV_FILES, "")
        self._lease = Lease(self.checkpoints)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def policy(self) -> Path:
        """Folder of the trained policy, written at the end."""
        return self.path / "policy"

    def read_manifest(self) -> dict[str, Any] | None:
        """run.json, or None if there is none yet.

        Raises:
            UserError: it cannot be read; the results beside it may be good, so nothing
                is taken for absent.
        """
        file = self.path / "run.json"
        try:
            manifest = json.loads(file.read_text())
            missing = {"format", "cell", "status", "wall_seconds", "resumed"} - manifest.keys()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{file}: cannot be read ({error}); remove {self.path} to run the cell again"
            ) from None
        if missing and manifest.get("format") == FORMAT:
            raise UserError(
                f"{file}: lacks {', '.join(sorted(missing))}; "
                f"remove {self.path} to run the cell again"
            )
        return dict(manifest)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write run.json atomically."""
        write_atomic(self.path / "run.json", json.dumps(manifest, indent=1) + "\n")

    def status(self) -> str:
        """`absent`, `running`, `done`, `failed`, `diverged` or `unsupported`.

        Raises:
            UserError: the folder holds a cell with other values.
        """
        manifest = self.read_manifest()
        if manifest is None:
            return "absent"
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"{self.path}: made in format {manifest.get('format')}, this version reads "
                f"{FORMAT}; choose another --experiment"
            )
        if manifest["cell"] != self.cell.identity:
            different = _difference(manifest, asdict(self.cell))
            raise UserError(
                f"{self.path}: holds a run with other values ({different}); "
                "choose another --experiment"
            )
        return str(manifest["status"])

    def lock(self) -> bool:
        """Claim the cell for this process; False if another has it (`runners.storage.lease`)."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        if not self._lease.take():
            return False
        for left in self.path.glob(".*.partial"):  # of a process that was killed
            left.unlink(missing_ok=True)
        return True

    def unlock(self) -> None:
        """Give the cell back."""
        self._lease.release()

    def beat(self, step: int, last_return: float | None) -> None:
        """Note how far the run is, for those who watch from other processes."""
        self._lease.beat(step, last_return)

    def check(self) -> None:
        """Look whether this process still has the cell, before anything of it is written.

        Raises:
            LeaseLost: it has not.
        """
        self._lease.check()

    def append(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add rows to `<name>.csv`, with the header first if it is empty.

        Raises:
            LeaseLost: another process has the cell now.
        """
        self.check()
        lines = [] if self.text[name] else [",".join(columns)]
        lines += [",".join(_text(value) for value in row) for row in rows]
        added = "".join(f"{line}\n" for line in lines)
        self.text[name] += added
        with (self.path / f"{name}.csv").open("a") as file:
            file.write(added)

    def restore(self, text: Mapping[str, str]) -> None:
        """Set every CSV file to what it was at a checkpoint; empty at the start.

        Raises:
            LeaseLost: another process has the cell now.
        """
        self.check()
        self.text = {name: text.get(name, "") for name in CSV_FILES}
        for name, content in self.text.items():
            write_atomic(self.path / f"{name}.csv", content)

    def sync(self) -> None:
        """Push the CSV files to the disk."""
        for name in CSV_FILES:
            sync(self.path / f"{name}.csv")


def _text(value: object) -> str:
    """Floats in full, so that equal numbers give equal bytes and no digit is lost."""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _difference(manifest: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """Return the first option in which a stored run and a wanted cell differ."""
    stored = {**manifest.get("config", {}), **manifest.get("protocol", {})}
    wanted = {**cell["config"], **cell["protocol"]}
    for key, value in wanted.items():
        if key in stored and stored[key] != value and key not in ("reported", "note"):
            return f"{key}={stored[key]}, not {value}"
    missing = sorted(set(cell["config"]) ^ set(manifest.get("config", {})))
    return f"options {', '.join(missing)}" if missing else "another identity"

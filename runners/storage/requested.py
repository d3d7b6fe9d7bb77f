"""Which cells the sweeps of an experiment were asked for, so that others know what is missing.

Each sweep leaves one small file `.sweeps/<hash of its cells>.json`. The same command again writes
the same file, and two sweeps never write to one, so none can lose what another has written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.cells.files import write_atomic

FOLDER = ".sweeps"
FORMAT = 1


def write_requested(cells: Sequence[Cell], experiment: Path) -> None:
    """Add the cells of a sweep to what its experiment is to hold.

    Args:
        cells: all of them, finished or not.
        experiment: the experiment folder, which exists.
    """
    paths = sorted({cell.path(Path()).as_posix() for cell in cells})
    text = json.dumps({"format": FORMAT, "cells": paths}, indent=0) + "\n"
    file = experiment / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, text)


def read_requested(experiment: Path) -> set[str]:
    """Return the run directories of all cells that were asked for, relative to the experiment.

    Raises:
        UserError: a file cannot be read.
    """
    requested: set[str] = set()
    for file in sorted((experiment / FOLDER).glob("[!.]*.json")):
        try:
            data = json.loads(file.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, this version reads {FORMAT}")
            requested.update(str(path) for path in data["cells"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); remove it") from None
    return requested

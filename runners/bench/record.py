"""What every benchmark shares: its arguments, its tables, and the record of its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import algos
from runners.bench.timing import rates
from runners.cells.errors import UserError, positive
from runners.cells.files import write_atomic
from runners.cells.grid import split
from runners.storage import manifest
from runners.terminal.cli import Parser, check_device
from runners.terminal.options import both_forms

Tables = Mapping[str, Sequence[Any]]
"""Rows, dataclasses, of each table by its name."""


def add_arguments(parser: Parser, repeats: int, samples: str = "samples of each time") -> None:
    """Add `--algos`, `--repeats`, `--device` and `--json`; see `check_arguments`.

    Args:
        parser: of the benchmark.
        repeats: default of `--repeats`.
        samples: what is repeated.
    """
    parser.add_argument(
        *both_forms("algos"), default="all", metavar="NAMES", help="comma list, or all"
    )
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=samples)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    add_json(parser)


def add_json(parser: Parser) -> None:
    """Add `--json`; see `check_json` and `write_record`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")


def check_json(file: Path | None) -> None:
    """Complain about a file whose folder is not there.

    Raises:
        UserError: one line.
    """
    if file is not None and not file.resolve().parent.is_dir():
        raise UserError(f"--json {file}: its folder does not exist")


def check_arguments(options: Any, kind: str) -> None:
    """Turn `--algos` into a list of those that take this kind of observation; check the rest.

    Raises:
        UserError: one line.
    """
    options.algos = chosen(options.algos, kind)
    positive("repeats", options.repeats)
    check_device(options.device)
    check_json(options.json)


def chosen(text: str, kind: str) -> list[str]:
    """Return the algorithms of a comma list, or all, that take this kind of observation.

    Raises:
        UserError: the list is empty, or names one that does not.
    """
    fitting = [name for name in algos.list_algos() if kind in algos.versions(algos.load(name))]
    names = fitting if text == "all" else split(text)
    if not names:
        raise UserError(f"--algos: name some of {', '.join(fitting)}, or all")
    for name in names:
        if kind not in algos.versions(algos.load(name)):
            raise UserError(f"--algos {name}: it takes no {kind} observations, which this measures")
    return names


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Name and measured rates of what the agents run on."""
    name = manifest.machine()["cpu"] if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {"name": name, "torch": torch.__version__, "threads": 1, "gflops": rates(device)}


def write_record(file: Path | None, machine: Mapping[str, Any], tables: Tables) -> None:
    """Write the numbers as JSON, if a file is given.

    Args:
        file: where to.
        machine: what they were measured on.
        tables: the numbers; NaN becomes null, which JSON has.
    """
    if file is not None:
        rows = {name: [_plain(asdict(row)) for row in table] for name, table in tables.items()}
        write_atomic(file, json.dumps({"machine": dict(machine)} | rows, indent=1) + "\n")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """Columns of text under the words of `head`, the first to the left, others to the right."""
    lines = [head.split("|"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in lines
    )


class RowPrinter:
    """A table that is printed row by row, as its numbers come.

    Args:
        head: words of its columns, joined by `|`; no cell should be wider than them or 10.
    """

    def __init__(self, head: str) -> None:
        words = head.split("|")
        self.widths = [max(10, len(word)) for word in words]
        self.print(words)

    def print(self, cells: Sequence[str]) -> None:
        """Print one row, the first cell to the left, others to the right."""
        aligned = map(str.rjust, cells[1:], self.widths[1:])
        print("  ".join([cells[0].ljust(self.widths[0]), *aligned]), flush=True)

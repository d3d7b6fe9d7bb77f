"""Reading the CSV files of runs, one strictly or thousands at a time."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.statistics.types import Counts

BATCH = 64
"""Files that are parsed at once: pandas takes longer to start than to read a small file."""

COMMA, NEWLINE = b","[0], b"\n"[0]
PLAIN = b"0123456789+-.e,\nnaif"
"""The characters of numbers, `nan` and `inf`, which need none of the rules for text."""


class ExperimentError(Exception):
    """An experiment folder is not what it should be; the message is one line for the user."""


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a CSV file that may still be growing.

    Args:
        path: the file; one that does not exist is an empty table.
        columns: the columns that its header must start with.

    Returns:
        The complete lines as floats; a last line without its line break is left out.

    Raises:
        ExperimentError: the header is another one, or a line cannot be read.
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


def read_logs(
    files: Sequence[Path], columns: list[str], further: Sequence[str] = ()
) -> tuple[pd.DataFrame, Counts]:
    """Read one CSV file of many runs, each by the rules of `read_table`.

    Args:
        files: the files.
        columns: the columns that each must have.
        further: columns that stand behind the others in all lines of a file or in none, which is
            NaN.

    Returns:
        The lines of all files under each other, and the number of lines of each file.

    Raises:
        ExperimentError: a file, the first of several, breaks the format.
    """
    complete = [*columns, *further]
    tables, counts = [pd.DataFrame(columns=complete, dtype=float)], []
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        for table, lines in _read_plain(batch, columns, complete) or _read_strictly(
            batch, columns, complete
        ):
            tables.append(table)
            counts.extend(lines)
    # pandas warns about the dtypes of empty frames, so only one of them is kept, if all are empty.
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True), np.array(counts, dtype=np.int64)


def _read_plain(
    files: Sequence[Path], columns: list[str], complete: list[str]
) -> list[tuple[pd.DataFrame, list[int]]]:
    """Read files with one header and nothing but numbers below it as if they were one file.

    Returns:
        One table and the number of lines of each file; nothing if a file is not so simple.
    """
    bodies, headers = [], set()
    for file in files:
        text = file.read_bytes() if file.exists() else b""
        header, _, body = text[: text.rfind(b"\n") + 1].partition(b"\n")
        bodies.append(body)
        headers.add(header)
    headers.discard(b"")
    names = next(iter(headers)).decode(errors="replace").split(",") if len(headers) == 1 else []
    text = b"".join(bodies)
    if names not in (columns, complete) or text.translate(None, PLAIN):
        return []
    # Every line must have its number of commas, or one long and one short line would pass.
    characters = np.frombuffer(text, dtype=np.uint8)
    separators = characters[(characters == COMMA) | (characters == NEWLINE)]
    lines = [body.count(NEWLINE) for body in bodies]
    if (
        len(separators) != sum(lines) * len(names)
        or (separators[len(names) - 1 :: len(names)] != NEWLINE).any()
    ):
        return []
    try:
        table = pd.read_csv(io.BytesIO(text), header=None, names=names, dtype=float)
    except ValueError:
        return []
    if table["env_step"].isna().any():
        return []
    return [(table.reindex(columns=complete), lines)]


def _read_strictly(
    files: Sequence[Path], columns: list[str], complete: list[str]
) -> Iterator[tuple[pd.DataFrame, list[int]]]:
    """Read file after file; yield the table of each and its number of lines."""
    for file in files:
        table = read_table(file, columns)
        if list(table.columns) not in (columns, complete):
            header = ",".join(table.columns)
            valid = dict.fromkeys(f"'{','.join(names)}'" for names in (columns, complete))
            raise ExperimentError(
                f"{file} has the header '{header}'; expected {' or '.join(valid)}"
            )
        yield table.reindex(columns=complete), [len(table)]

"""A Parquet copy of an experiment's CSV files, in the hidden folder `.cache` beside its runs.

A copy holds the rows of one kind of file of all runs, and what each file looked like when it was
read. Loading reads again only the files that look otherwise. The copy is never needed: one that is
damaged, of another version or cannot be written is done without, in silence.
"""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.statistics.types import Counts
from runners.cells.files import write_atomic

FOLDER = ".cache"

FORMAT = 1
"""To be raised when the same files are to be read differently."""

SMALLEST = 2**22
"""Bytes of CSV files below which there is no copy: they are read in a tenth of a second."""

Reader = Callable[[Sequence[Path]], tuple[pd.DataFrame, Counts]]
Look = tuple[int, int, int]
"""Size in bytes, time of the last change in nanoseconds and inode; zeros for an absent file."""


@dataclass(frozen=True)
class Copy:
    """What was read of a list of files.

    Attributes:
        table: the rows of all files under each other.
        counts: the number of rows of each file [files].
        looks: for each file, by its path below the experiment, how it looked before it was read.
    """

    table: pd.DataFrame
    counts: Counts
    looks: dict[str, Look]


def read_cached(
    experiment: Path, files: Sequence[Path], read: Reader
) -> tuple[pd.DataFrame, Counts]:
    """Read files of an experiment; those that have not changed come from the copy.

    Args:
        experiment: the experiment's folder.
        files: files below it with the same name.
        read: reads files into one table, with the same columns of floats whatever the files, and
            the number of rows of each file.

    Returns:
        What `read` returns for all files.
    """
    store = experiment / FOLDER / f"{files[0].stem}.parquet"
    # Looked at before it is read, a file that grows in between is read again the next time.
    looks = {file.relative_to(experiment).as_posix(): _look(file) for file in files}
    nothing = Copy(*read([]), {})
    old = _load(store, nothing)
    changed = [key for key, look in looks.items() if old.looks.get(key) != look]
    if not changed and list(looks) == list(old.looks):
        return old.table, old.counts
    new = Copy(*read([experiment / key for key in changed]), {key: looks[key] for key in changed})
    copy = new if len(changed) == len(looks) else _merge(old, new, looks)
    if sum(size for size, _, _ in looks.values()) >= SMALLEST:
        _save(store, copy)
    return copy.table, copy.counts


def _look(file: Path) -> Look:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def _merge(old: Copy, new: Copy, looks: dict[str, Look]) -> Copy:
    """Put the rows of both in the order of `looks`; the new ones replace the old ones."""
    places = {key: place for place, key in enumerate([*old.looks, *new.looks])}
    places |= {key: len(old.looks) + place for place, key in enumerate(new.looks)}
    order = [places[key] for key in looks]
    counts = np.concatenate([old.counts, new.counts])
    starts = (counts.cumsum() - counts)[order]
    counts = counts[order]
    rows = np.arange(counts.sum()) + np.repeat(starts - (counts.cumsum() - counts), counts)
    parts = [part.table for part in (old, new) if len(part.table)]
    table = pd.concat(parts, ignore_index=True) if parts else new.table
    return Copy(table.take(rows).reset_index(drop=True), counts, looks)


def _load(store: Path, nothing: Copy) -> Copy:
    """Read a copy; return `nothing` if there is none that is sound."""
    try:
        stored = pq.read_table(store, page_checksum_verification=True)
        facts = json.loads(stored.schema.metadata[b"facts"])
        looks = {key: (a, b, c) for key, (a, b, c) in facts["looks"].items()}
        counts = np.array(facts["counts"], dtype=np.int64)
        sound = (
            facts["format"] == FORMAT
            and stored.column_names == list(nothing.table.columns)
            and len(counts) == len(looks)
            and counts.sum() == len(stored)
        )
        return Copy(stored.to_pandas(), counts, looks) if sound else nothing
    except Exception:  # Whatever a damaged file gives, down to numbers without end: read again.
        return nothing


def _save(store: Path, copy: Copy) -> None:
    """Write a copy, if the folder can be written to."""
    facts = {"format": FORMAT, "looks": copy.looks, "counts": copy.counts.tolist()}
    table = pa.Table.from_pandas(copy.table, preserve_index=False)
    content = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"facts": json.dumps(facts)}),
        content,
        write_page_checksum=True,
    )
    with suppress(OSError):
        store.parent.mkdir(exist_ok=True)
        write_atomic(store, content.getvalue())

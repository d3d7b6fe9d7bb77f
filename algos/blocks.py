"""Rows that are only ever added, in blocks that a checkpoint writes once.

A memory of pictures is far larger than anything else of a run. Its rows never change once
they are written, so they are kept in blocks: a full block goes into a file of its own at
the next checkpoint, and later checkpoints only name that file. From then on the block is read
from the file too, so that the memory costs disk rather than main memory.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


class Block:
    """A full array that never changes again.

    Args:
        array: its values, not written to any more.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self._digest: str | None = None
        self._map: mmap.mmap | None = None

    @classmethod
    def of_file(cls, path: Path, shape: Sequence[int], dtype: str) -> Block:
        """The block whose bytes are those of a file, read as they are needed."""
        block = cls(np.empty(0, dtype))
        block._read_from(path, tuple(shape))
        return block

    @property
    def digest(self) -> str:
        """SHA-256 of the values in hexadecimal digits."""
        if self._digest is None:
            self._digest = hashlib.sha256(np.ascontiguousarray(self.array).data).hexdigest()
        return self._digest

    def move_to(self, path: Path) -> None:
        """Read from now on from `path`, a file that holds these bytes."""
        if self._map is None:
            self._read_from(path, self.array.shape)

    def _read_from(self, path: Path, shape: tuple[int, ...]) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self._map, self.array.dtype).reshape(shape)

    def release(self) -> None:
        """Give main memory back; what is read again comes from the file or the system's cache."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def __deepcopy__(self, memo: dict[int, Any]) -> Block:
        """Itself, since it never changes."""
        return self


class Rows:
    """The last rows of an ever longer sequence; row k keeps its number k for good.

    Args:
        shape: of one row.
        dtype: of its elements.
        capacity: rows that can be read, at least; whole blocks are dropped.
    """

    # Rows of a block: pictures of 84 x 84 make 21 MB.
    SIZE = 1_000
    # Bytes read between two releases of mapped blocks. This bounds the resident memory, to some
    # ten times as much: the system maps the surroundings of what is read as well.
    READ_AHEAD = 1 << 26

    def __init__(self, shape: Sequence[int], dtype: Any, capacity: int) -> None:
        self.shape, self.dtype, self.capacity = tuple(shape), np.dtype(dtype), capacity
        self.blocks: dict[int, Block] = {}
        self.tail = self._empty()
        self.total = 0
        self._read = 0

    def _empty(self) -> Array:
        return np.empty((self.SIZE, *self.shape), self.dtype)

    def append(self, row: Array) -> None:
        """Add a copy of `row`."""
        place = self.total % self.SIZE
        self.tail[place] = row
        self.total += 1
        if place + 1 < self.SIZE:
            return
        number = (self.total - 1) // self.SIZE
        self.blocks[number] = Block(self.tail)
        self.tail = self._empty()
        first = max(0, self.total - self.capacity) // self.SIZE
        for old in [k for k in self.blocks if k < first]:
            del self.blocks[old]

    def gather(self, index: Array) -> Array:
        """Rows by number: `[*index.shape, *shape]`."""
        out = np.empty((index.size, *self.shape), self.dtype)
        numbers, places = np.divmod(index.ravel(), self.SIZE)
        open_block = self.total // self.SIZE
        for k, (number, place) in enumerate(zip(numbers.tolist(), places.tolist(), strict=True)):
            source = self.tail if number == open_block else self.blocks[number].array
            out[k] = source[place]
        self._read += out.nbytes
        if self._read > self.READ_AHEAD:
            self._read = 0
            for block in self.blocks.values():
                block.release()
        return out.reshape(*index.shape, *self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Full blocks, which a checkpoint writes once, and the rows after them."""
        rest = torch.from_numpy(self.tail[: self.total % self.SIZE].copy())
        return {"blocks": dict(self.blocks), "tail": rest, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the same rows."""
        self.total, self.blocks = int(state["total"]), dict(state["blocks"])
        self.tail = self._empty()
        self.tail[: self.total % self.SIZE] = state["tail"].numpy()

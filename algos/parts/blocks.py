"""Keep rows that change no more in blocks that a checkpoint writes once.

A memory of experience is far larger than anything else of a run, and almost all of it is the
same from one checkpoint to the next. So it is kept in blocks: a full block goes into a file of
its own at the next checkpoint, and later checkpoints only name that file. Images (`Rows`) are
from then on read from the file too, so that they cost disk rather than main memory; vectors
(`Ring`) stay where they are sampled, and their blocks are views of them.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.parts.types import Array


class Block:
    """A full array that never changes again.

    Args:
        array: its values, not written to any more.
    """

    def __init__(self, array: Array) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._array: Array | None = array
        self._digest: str | None = None
        self._path: Path | None = None
        self._mapped = False
        self._map: mmap.mmap | None = None

    @classmethod
    def of_file(
        cls, path: Path, shape: Sequence[int], dtype: str, digest: str, mapped: bool
    ) -> Block:
        """Return the block whose bytes are those of a file; nothing is read yet.

        Args:
            path: the file.
            shape: of the array.
            dtype: of the array, as numpy names it.
            digest: SHA-256 of the file in hexadecimal digits.
            mapped: read from the file whenever values are needed; else once, into memory.
        """
        block = cls(np.empty(0, dtype))
        block.shape, block._digest = tuple(shape), digest
        block._array, block._path, block._mapped = None, path, mapped
        return block

    @property
    def array(self) -> Array:
        """The values."""
        if self._array is None:
            self._array = self._open() if self._mapped else self.read()
        return self._array

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def digest(self) -> str:
        """SHA-256 of the values in hexadecimal digits."""
        if self._digest is None:
            self._digest = hashlib.sha256(np.ascontiguousarray(self.array).data).hexdigest()
        return self._digest

    def move_to(self, path: Path) -> None:
        """Read from now on from `path`, a file that holds these bytes."""
        if not self._mapped:
            self._array, self._path, self._mapped = None, path, True

    def _open(self) -> Array:
        assert self._path is not None
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, self.dtype).reshape(self.shape)

    def read(self) -> Array:
        """Return the values for one use: those that are in a file are not kept in memory."""
        if self._array is not None:
            return self._array
        assert self._path is not None
        return np.fromfile(self._path, self.dtype).reshape(self.shape)

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

    # Rows of a block: images of 84 x 84 make 21 MB.
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
        """Continue with the same rows.

        Raises:
            ValueError: they are of another shape, or in blocks of another size.
        """
        self.total, self.blocks = int(state["total"]), dict(state["blocks"])
        for block in self.blocks.values():  # which opens their files
            if block.array.shape != (self.SIZE, *self.shape):
                raise ValueError(f"block of {block.shape}, not of {(self.SIZE, *self.shape)}")
        self.tail = self._empty()
        self.tail[: self.total % self.SIZE] = state["tail"].numpy()


class Segment(Block):
    """Some rows of a ring as a block: a view that is good until the ring comes round to them.

    Args:
        rows: float32 `[R, N, width]`, on any device.
        digest: if it is known.
    """

    def __init__(self, rows: Tensor, digest: str | None = None) -> None:
        super().__init__(np.empty(0, np.float32))
        self.shape, self._rows, self._digest = tuple(rows.shape), rows, digest

    @property
    def array(self) -> Array:
        """The rows on the host, as they are in the ring; from another device a copy."""
        return self._rows.cpu().numpy()

    def read(self) -> Array:
        """See `Block.read`."""
        return self.array

    def move_to(self, path: Path) -> None:
        """Nothing moves: the ring keeps its rows for sampling, and there is no other copy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Block:
        """Return a block of its own, since the ring will overwrite the rows."""
        return Block(self.array.copy())


class Ring:
    """The last `capacity` rows of R replicas on a device, in segments.

    Memory is taken from the machine as rows are written, not when the ring is made. A full
    segment is a block. The segment in which the next row goes is not, until it is full again.

    Args:
        replicas: R.
        capacity: rows kept per replica.
        width: columns of a row.
        device: where the rows live.
    """

    # Of a segment: few files of a large memory, little to write again of the open segment.
    BYTES = 2 << 20

    def __init__(self, replicas: int, capacity: int, width: int, device: torch.device) -> None:
        self.rows = torch.zeros(replicas, capacity, width, device=device)
        self.capacity = capacity
        self.size = max(1, self.BYTES // (4 * replicas * width))  # rows of a segment
        self.total = 0
        self.segments: dict[int, Segment] = {}

    def __len__(self) -> int:
        """Rows stored per replica."""
        return min(self.total, self.capacity)

    def append(self, row: Array) -> None:
        """Store a copy of `row`, float32 `[R, width]`, over the oldest if the ring is full."""
        slot = self.total % self.capacity
        if slot % self.size == 0:
            self.segments.pop(slot // self.size, None)
        self.rows[:, slot] = torch.from_numpy(row).to(self.rows.device)
        self.total += 1

    def _segment(self, number: int) -> Tensor:
        """Rows of a segment that are written, `[R, <= size, width]`."""
        return self.rows[:, number * self.size : min((number + 1) * self.size, len(self))]

    def _open(self) -> int | None:
        """Return the segment that is written to, unless the next row begins one."""
        number, begun = divmod(self.total % self.capacity, self.size)
        return number if begun else None

    def state_dict(self) -> dict[str, Any]:
        """Full segments as blocks, the rows of the open one, and the number of rows so far."""
        opened = self._open()
        full = [k for k in range(-(-len(self) // self.size)) if k != opened]
        for k in full:
            self.segments.setdefault(k, Segment(self._segment(k)))
        rest = self.rows[:, :0] if opened is None else self._segment(opened)
        return {"segments": {k: self.segments[k] for k in full}, "open": rest, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ring exactly."""
        self.total, self.segments = int(state["total"]), {}
        opened = self._open()
        for k, block in state["segments"].items():
            rows = self._segment(k)
            rows.copy_(torch.tensor(block.read()))
            self.segments[k] = Segment(rows, block._digest)
        if opened is not None:
            self._segment(opened).copy_(state["open"])

"""Checkpoints: a JSON manifest beside tensors that load without running code.

A checkpoint is a folder `step-<n>` with `manifest.json` (structure, numbers, texts) and
`tensors.safetensors`. It is written under another name, flushed to disk and renamed, so
that a folder of that name is always whole. The one before it is kept: where the newest is
found to be damaged, `load` takes that.

Blocks of a memory that never change again (`algos.parts.blocks`) lie beside these folders, in
`blocks/<checksum>`. Each is written once and named by every checkpoint that needs it; what
neither of the two checkpoints names is removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from algos.parts.blocks import Block
from runners.cells.files import sync, write_through
from runners.storage.encoding import Arrays, decode, encode

FORMAT = 2
BLOCKS = "blocks"  # folder beside the checkpoints
PARTIAL = "partial"  # what is being written or removed
# Real ones have some 100 kB; a parsed text takes many times its size.
MANIFEST_BYTES = 64 << 20
DIGEST = re.compile("[0-9a-f]{64}")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line."""


class _Damaged(CheckpointError):
    """It is not what was written; another one may serve."""


@dataclass(frozen=True)
class Loaded:
    """What `load` found.

    Attributes:
        state: as it was given to `save`; of a named tuple, a tuple.
        path: the checkpoint that holds it.
        notice: one line if a newer checkpoint is damaged.
    """

    state: Any
    path: Path
    notice: str | None = None


def _file(folder: Path, name: str) -> Path:
    """Return the regular file of this name below `folder`, if no link stands in the way."""
    path = folder / name
    if path.resolve() != folder.resolve() / name:
        raise ValueError(f"{name} is reached through a symbolic link")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name} is no file")
    return path


def _read_block(folder: Path, on_disk: bool, sha256: str, shape: list[int], dtype: str) -> Block:
    if not DIGEST.fullmatch(sha256):
        raise ValueError(f"bad name of a block {sha256!r}")
    name = f"{BLOCKS}/{sha256}"
    path = _file(folder, name)
    kind = np.dtype(dtype) if isinstance(dtype, str) else np.dtype(object)
    if kind.hasobject or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"bad kind of a block {shape} {dtype}")
    # Before anything of that size is touched.
    if path.stat().st_size != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name} has another size")
    if _digest(path) != sha256:
        raise ValueError(f"{name} has another checksum")
    return Block.of_file(path, shape, dtype, sha256, on_disk)


def _write_blocks(folder: Path, blocks: Mapping[str, Block], trusted: Collection[str]) -> None:
    """Write every block, but for those of the last checkpoint that still have their size."""
    place = folder / BLOCKS
    if blocks:
        place.mkdir(parents=True, exist_ok=True)
    written = False
    for name, block in blocks.items():
        path = place / name
        # A file that no checkpoint names was left by a save that failed, or by a run whose
        # damaged checkpoints were removed: it may hold anything.
        if name in trusted and path.exists() and path.stat().st_size == block.nbytes:
            continue
        write_through(place / PARTIAL, np.ascontiguousarray(block.array).data)
        (place / PARTIAL).replace(path)
        written = True
    if written:
        sync(place)


def save(
    folder: Path,
    step: int,
    state: Any,
    blocks_on_disk: bool = True,
    previous: Path | None = None,
) -> Path:
    """Write `state` as the newest checkpoint of `folder`.

    Args:
        folder: where checkpoints live; made if missing.
        step: environment step, which names the checkpoint.
        state: nested dicts, lists and tuples of tensors, arrays, blocks, numbers and texts.
        blocks_on_disk: read written blocks from their files from now on, which frees main
            memory; False keeps them in it too.
        previous: the checkpoint to keep beside the new one, known to be good; by default the
            newest there is. All others are removed.

    Returns:
        The new checkpoint.

    Raises:
        OSError: it could not be written; the older ones are as they were, and what was
            written of the new one is removed.
        TypeError: the state holds something else.
        ValueError: the part of the state that is no tensor is too large to be loaded again.
    """
    found = sorted(folder.glob("step-*"))
    previous = previous or (found[-1] if found else None)
    trusted = set() if previous is None else _names(previous)
    try:
        final, blocks = _write_checkpoint(folder, step, state, trusted)
    except OSError:
        with contextlib.suppress(OSError):
            _tidy(folder, {path.name for path in found}, set().union(*map(_names, found)))
        raise
    if blocks_on_disk:
        for name, block in blocks.items():
            block.move_to(folder / BLOCKS / name)
    _tidy(folder, {path.name for path in (final, previous) if path}, blocks.keys() | trusted)
    return final


def _write_checkpoint(
    folder: Path, step: int, state: Any, trusted: Collection[str]
) -> tuple[Path, dict[str, Block]]:
    """Return the checkpoint under its final name, and the blocks that it names."""
    partial, final = folder / PARTIAL, folder / f"step-{step:09d}"
    if same := sorted(folder.glob(f"{final.name}*")):
        # Stopped twice at one step: the old one must live until the new one has its name.
        final = folder / f"{same[-1].name}+"
    arrays: Arrays = {}
    blocks: dict[str, Block] = {}
    tree = encode(state, arrays, blocks)
    tensors = to_bytes(arrays)
    sums = {"tensors": hashlib.sha256(tensors).hexdigest(), "state": _text_digest(tree)}
    manifest = json.dumps({"format": FORMAT, "step": step, "sha256": sums, "state": tree}).encode()
    if len(manifest) > MANIFEST_BYTES:
        raise ValueError(f"state has {len(manifest):,} bytes of numbers and texts, too many")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_blocks(folder, blocks, trusted)
    write_through(partial / "tensors.safetensors", tensors)
    write_through(partial / "manifest.json", manifest)
    sync(partial)
    partial.rename(final)
    sync(folder)
    return final, blocks


def _tidy(folder: Path, steps: Collection[str], blocks: Collection[str]) -> None:
    """Remove all but these checkpoints and blocks, and what a failed or killed save left."""
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    for path in folder.glob("step-*"):
        if path.name not in steps:
            path.rename(partial)  # so that no part of it is ever taken for a checkpoint
            shutil.rmtree(partial)
    for path in (folder / BLOCKS).glob("*"):
        if path.name not in blocks and (path.name == PARTIAL or DIGEST.fullmatch(path.name)):
            path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_digest(tree: Any) -> str:
    """Checksum of the part that is JSON; numbers and texts survive a round trip exactly."""
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def _manifest(path: Path) -> bytes:
    """Text of a checkpoint's manifest."""
    file = _file(path.parent, f"{path.name}/manifest.json")
    if file.stat().st_size > MANIFEST_BYTES:
        raise ValueError(f"its manifest has more than {MANIFEST_BYTES:,} bytes")
    return file.read_bytes()


def _names(path: Path) -> set[str]:
    """Return the blocks that a checkpoint names; none if it cannot be read."""
    try:
        # No text of the state looks like this: its quotes have backslashes.
        return {m.decode() for m in re.findall(rb'"sha256": "([0-9a-f]{64})"', _manifest(path))}
    except (OSError, ValueError):
        return set()


def load(folder: Path, blocks_on_disk: bool = True) -> Loaded | None:
    """Read the newest good state saved in `folder`; nothing is changed there.

    Args:
        folder: where checkpoints live.
        blocks_on_disk: as in `save`.

    Returns:
        The state, or None if nothing was saved.

    Raises:
        CheckpointError: all checkpoints are damaged, or the newest is of another format.
    """
    damage: list[_Damaged] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = _read(path, blocks_on_disk)
        except _Damaged as error:
            damage.append(error)
            continue
        notice = f"{damage[0]}; going on from {path.name}" if damage else None
        return Loaded(state, path, notice)
    if damage:
        raise CheckpointError(f"{damage[0]}; remove {folder} to start the cell again")
    return None


def _read(path: Path, blocks_on_disk: bool) -> Any:
    """Return the state of one checkpoint."""
    try:
        manifest = json.loads(_manifest(path))
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}"
            )
        tensors = _file(path.parent, f"{path.name}/tensors.safetensors")
        found = {"tensors": _digest(tensors), "state": _text_digest(manifest["state"])}
        if found != manifest["sha256"]:
            raise ValueError("checksum differs")
        read_block = functools.partial(_read_block, path.parent, blocks_on_disk)
        return decode(manifest["state"], load_file(tensors), read_block)
    except CheckpointError:
        raise
    # What a crafted file can make the readers raise.
    except (
        *(OSError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError),
        *(AttributeError, SafetensorError),
    ) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise _Damaged(f"checkpoint {path} is damaged ({text[:400]})") from None


def remove(folder: Path) -> None:
    """Remove all checkpoints of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)

"""Checkpoints: a JSON manifest beside tensors that load without running code.

A checkpoint is a folder `step-<n>` with `manifest.json` (structure, numbers, texts) and
`tensors.safetensors`. It is written under another name, flushed to disk and renamed, so
that a folder of that name is always whole; the previous one is removed only then.

Blocks of a memory that never change again (`algos.blocks`) lie beside these folders, in
`blocks/<checksum>`. Each is written once and named by every checkpoint that needs it; what
no checkpoint names any more is removed with the previous checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from algos.blocks import Block

FORMAT = 1
BLOCKS = "blocks"  # folder beside the checkpoints
Arrays = dict[str, NDArray[Any]]


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line."""


def _encode(node: Any, arrays: Arrays, blocks: dict[str, Block]) -> Any:
    """Replace arrays by their names; everything else becomes plain JSON with tags."""
    if isinstance(node, Block):
        blocks[node.digest] = node
        shape, dtype = list(node.array.shape), str(node.array.dtype)
        return {"block": {"sha256": node.digest, "shape": shape, "dtype": dtype}}
    if isinstance(node, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(node, torch.Tensor) else "array"
        name = str(len(arrays))
        if isinstance(node, torch.Tensor) and node.dtype == torch.bfloat16:
            kind, node = "bfloat16", node.view(torch.int16)  # numpy has no such type
        values = node.detach().cpu().numpy() if isinstance(node, torch.Tensor) else node
        # Adds no axis to a 0-d array, unlike numpy's ascontiguousarray.
        arrays[name] = np.array(values, order="C")
        return {kind: name}
    if isinstance(node, dict):
        pairs = [[_encode(part, arrays, blocks) for part in item] for item in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_encode(item, arrays, blocks) for item in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"state holds a {type(node).__name__}, which a checkpoint cannot keep")


def _decode(node: Any, arrays: Arrays, blocks: Callable[..., Block]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "block":
        return blocks(**value)
    if kind == "tensor":
        return torch.from_numpy(arrays[value])
    if kind == "bfloat16":
        return torch.from_numpy(arrays[value]).view(torch.bfloat16)
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {_decode(k, arrays, blocks): _decode(v, arrays, blocks) for k, v in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    items = [_decode(item, arrays, blocks) for item in value]
    return tuple(items) if kind == "tuple" else items


def _read_block(folder: Path, on_disk: bool, sha256: str, shape: list[int], dtype: str) -> Block:
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"bad name of a block {sha256!r}")
    path = folder / BLOCKS / sha256
    if _digest(path) != sha256:
        raise ValueError(f"{path} has another checksum")
    block = Block.of_file(path, shape, dtype)
    return block if on_disk else Block(block.array.copy())


def _write_blocks(folder: Path, blocks: Mapping[str, Block], on_disk: bool) -> None:
    """Write what is not there yet, and let the memory read it from there if `on_disk`."""
    place = folder / BLOCKS
    if blocks:
        place.mkdir(parents=True, exist_ok=True)
    written = False
    for name, block in blocks.items():
        path = place / name
        if not path.exists():
            partial = place / "partial"
            np.ascontiguousarray(block.array).tofile(partial)
            _sync(partial)
            partial.replace(path)
            written = True
        if on_disk:
            block.move_to(path)
    if written:
        _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a small file so that it is never seen half-written."""
    # Two sweeps may begin the same experiment at once, also on two machines.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    _sync(partial)
    partial.replace(path)


def save(folder: Path, step: int, state: Any, blocks_on_disk: bool = True) -> Path:
    """Write `state` as the newest checkpoint of `folder` and remove older ones.

    Args:
        folder: where checkpoints live; made if missing.
        step: environment step, which names the checkpoint.
        state: nested dicts, lists and tuples of tensors, arrays, blocks, numbers and texts.
        blocks_on_disk: read written blocks from their files from now on, which frees main
            memory; False keeps them in it too.
    """
    partial, final = folder / "partial", folder / f"step-{step:09d}"
    if same := sorted(folder.glob(f"{final.name}*")):
        # Stopped twice at one step: the old one must live until the new one has its name.
        final = folder / f"{same[-1].name}+"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays: Arrays = {}
    blocks: dict[str, Block] = {}
    tree = _encode(state, arrays, blocks)
    _write_blocks(folder, blocks, blocks_on_disk)
    tensors = partial / "tensors.safetensors"
    save_file(arrays, tensors)
    sums = {"tensors": _digest(tensors), "state": _text_digest(tree)}
    manifest = {"format": FORMAT, "step": step, "sha256": sums, "state": tree}
    (partial / "manifest.json").write_text(json.dumps(manifest))
    for path in (tensors, partial / "manifest.json", partial):
        _sync(path)
    older = list(folder.glob("step-*"))
    partial.rename(final)
    _sync(folder)
    for path in older:
        shutil.rmtree(path)
    for path in (folder / BLOCKS).glob("*"):
        if path.name not in blocks:
            path.unlink()
    return final


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_digest(tree: Any) -> str:
    """Checksum of the part that is JSON; numbers and texts survive a round trip exactly."""
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def load(folder: Path, blocks_on_disk: bool = True) -> Any | None:
    """Return the newest state saved in `folder`, or None if there is none.

    Args:
        folder: where checkpoints live.
        blocks_on_disk: as in `save`.

    Raises:
        CheckpointError: the newest checkpoint is damaged or of another format.
    """
    saved = sorted(folder.glob("step-*"))
    if not saved:
        return None
    path = saved[-1]
    hint = f"remove {path} to start the cell again"
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}"
            )
        found = {
            "tensors": _digest(path / "tensors.safetensors"),
            "state": _text_digest(manifest["state"]),
        }
        if found != manifest["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged (checksum differs); {hint}")
        arrays = load_file(path / "tensors.safetensors")
        read_block = functools.partial(_read_block, folder, blocks_on_disk)
        return _decode(manifest["state"], arrays, read_block)
    except (OSError, LookupError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path} is damaged ({error}); {hint}") from None


def remove(folder: Path) -> None:
    """Remove all checkpoints of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)

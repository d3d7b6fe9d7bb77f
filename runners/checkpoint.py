"""Checkpoints: a JSON manifest beside tensors that load without running code.

A checkpoint is a folder `step-<n>` with `manifest.json` (structure, numbers, texts) and
`tensors.safetensors`. It is written under another name, flushed to disk and renamed, so
that a folder of that name is always whole; the previous one is removed only then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FORMAT = 1
Arrays = dict[str, NDArray[Any]]


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line."""


def _encode(node: Any, arrays: Arrays) -> Any:
    """Replace arrays by their names; everything else becomes plain JSON with tags."""
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
        return {"dict": [[_encode(k, arrays), _encode(v, arrays)] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_encode(item, arrays) for item in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"state holds a {type(node).__name__}, which a checkpoint cannot keep")


def _decode(node: Any, arrays: Arrays) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[value])
    if kind == "bfloat16":
        return torch.from_numpy(arrays[value]).view(torch.bfloat16)
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {_decode(k, arrays): _decode(v, arrays) for k, v in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    items = [_decode(item, arrays) for item in value]
    return tuple(items) if kind == "tuple" else items


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that it is never seen half-written."""
    # Two sweeps may begin the same experiment at once, also on two machines.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(text)
    _sync(partial)
    partial.replace(path)


def save(folder: Path, step: int, state: Any) -> Path:
    """Write `state` as the newest checkpoint of `folder` and remove older ones.

    Args:
        folder: where checkpoints live; made if missing.
        step: environment step, which names the checkpoint.
        state: nested dicts, lists and tuples of tensors, arrays, numbers and texts.
    """
    partial, final = folder / "partial", folder / f"step-{step:09d}"
    if same := sorted(folder.glob(f"{final.name}*")):
        # Stopped twice at one step: the old one must live until the new one has its name.
        final = folder / f"{same[-1].name}+"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays: Arrays = {}
    tree = _encode(state, arrays)
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
    return final


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_digest(tree: Any) -> str:
    """Checksum of the part that is JSON; numbers and texts survive a round trip exactly."""
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def load(folder: Path) -> Any | None:
    """Return the newest state saved in `folder`, or None if there is none.

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
        return _decode(manifest["state"], arrays)
    except (OSError, LookupError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path} is damaged ({error}); {hint}") from None


def remove(folder: Path) -> None:
    """Remove all checkpoints of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)

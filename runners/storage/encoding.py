"""A nested state as a JSON tree with tags, beside the arrays and blocks that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from algos.parts.blocks import Block

Arrays = dict[str, NDArray[Any]]


def encode(node: Any, arrays: Arrays, blocks: dict[str, Block]) -> Any:
    """Replace arrays by their names; everything else becomes plain JSON with tags.

    Args:
        node: nested dicts, lists and tuples of tensors, arrays, blocks, numbers and texts.
        arrays: takes the arrays, by names of their own; no copies where that can be.
        blocks: takes the blocks, by their checksums.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(node, Block):
        blocks[node.digest] = node
        shape, dtype = list(node.shape), str(node.dtype)
        return {"block": {"sha256": node.digest, "shape": shape, "dtype": dtype}}
    if isinstance(node, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(node, torch.Tensor) else "array"
        name = str(len(arrays))
        if isinstance(node, torch.Tensor) and node.dtype == torch.bfloat16:
            kind, node = "bfloat16", node.view(torch.int16)  # numpy has no such type
        values = node.detach().cpu().numpy() if isinstance(node, torch.Tensor) else node
        # Adds no axis to a 0-d array, unlike numpy's ascontiguousarray.
        arrays[name] = np.asarray(values, order="C")
        return {kind: name}
    if isinstance(node, dict):
        pairs = [[encode(part, arrays, blocks) for part in item] for item in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [encode(item, arrays, blocks) for item in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"state holds a {type(node).__name__}, which a checkpoint cannot keep")


def decode(node: Any, arrays: Mapping[str, NDArray[Any]], block: Callable[..., Block]) -> Any:
    """Return the state of a tree; a named tuple comes back as a tuple.

    Args:
        node: what `encode` returned.
        arrays: by name.
        block: the block of given `sha256`, `shape` and `dtype`.

    Raises:
        Exception: of some kind, if `encode` did not make the tree.
    """
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "block":
        return block(**value)
    if kind == "tensor":
        return torch.from_numpy(arrays[value])
    if kind == "bfloat16":
        return torch.from_numpy(arrays[value]).view(torch.bfloat16)
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {decode(k, arrays, block): decode(v, arrays, block) for k, v in value}
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    items = [decode(item, arrays, block) for item in value]
    return tuple(items) if kind == "tuple" else items

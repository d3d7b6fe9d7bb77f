"""Independent random streams, named by what they are for."""

from __future__ import annotations

import hashlib


def derive_seed(*axes: object) -> int:
    """Return a seed from names, for example `derive_seed("eval", task, seed, index, episode)`.

    Different axes give independent seeds; the same axes give the same seed on every
    machine and in every version.

    Returns:
        An integer in 0..2**32-1, which every library takes.
    """
    text = "/".join(str(axis) for axis in axes)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

"""Writing files so that a reader, or a power cut, never finds half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a small file: readers see the old one or the new one, whole."""
    # Two sweeps may begin the same experiment at once, also on two machines.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write_through(partial, content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_through(path: Path, content: bytes | memoryview) -> None:
    """Write a file and push it to the disk."""
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Writing an output so that a reader sees the old file or the new one, never a half."""

import os
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes `content` to `path` through a temporary file in the same folder and a rename."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

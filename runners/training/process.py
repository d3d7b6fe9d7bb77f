"""Settings of a process that trains: one thread, quiet, repeatable."""

from __future__ import annotations

import ctypes
import resource
import sys


def setup_process() -> None:
    """Give this process one torch thread and an allocator that keeps its memory.

    Importing `runners` has set the threads of the matrix libraries already.
    glibc returns every freed block of a few megabytes to the system and takes it back
    page by page, which costs more than the arithmetic done in it.
    """
    import torch

    torch.set_num_threads(1)
    # Frames on disk take a descriptor for every thousand; the usual limit is 1,024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its largest value
            mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD

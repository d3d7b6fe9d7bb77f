"""How runs are done, as against what they are: nothing here changes a result."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RunSettings:
    """How a run is done; nothing of it changes a result, but for the device's rounding.

    Attributes:
        device: cpu, cuda or cuda:N.
        checkpoint_seconds: wall time between checkpoints.
        frames_on_disk: read frames from the checkpoint that holds them, not from memory.
        step_timeout: seconds without a step after which a worker counts as stalled.
        track: names of the sinks that metrics go to as well; see `runners.training.tracking`.
    """

    device: str = "cpu"
    checkpoint_seconds: float = 60.0
    frames_on_disk: bool = True
    step_timeout: float = math.inf
    track: tuple[str, ...] = ()

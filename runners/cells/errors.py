"""What a user's mistake is, and what commands exit with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
# EX_TEMPFAIL of sysexits.h: the work is saved, run the same command again.
EXIT_AGAIN = 75


class UserError(ValueError):
    """Bad input; the message is one line that names the bad value and the valid ones."""


def positive(name: str, value: int) -> int:
    """Return `value`, or complain that option `--name` must be at least 1."""
    if value < 1:
        raise UserError(f"--{name} {value}: must be at least 1")
    return value


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `, did you mean X?` for the closest of `valid`, or an empty string.

    `algos` and `envs`, which know nothing of the runner, word their own.
    """
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""

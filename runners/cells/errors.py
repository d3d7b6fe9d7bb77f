"""What a user's mistake is, and what commands exit with."""

from __future__ import annotations

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

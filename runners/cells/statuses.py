"""Statuses of a cell, in run.json and where progress is shown."""

from __future__ import annotations

RECORDED = ("running", "done", "failed", "diverged", "unsupported")
"""What run.json may say."""

FINAL = ("done", "unsupported")
"""Nothing runs such a cell again."""

SHOWN = (
    "running",
    "waiting",
    "interrupted",
    "failed",
    "diverged",
    "unsupported",
    "unreadable",
    "done",
)
"""`interrupted`: begun, and no process has it. `waiting`: asked for by a sweep, not begun.
`unreadable`: its run.json breaks the format."""

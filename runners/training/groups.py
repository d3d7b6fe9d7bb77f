"""Which cells one process trains together: seeds of one method on one task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import algos
from runners.cells.cell import Cell, Run
from runners.cells.grid import agent_for
from runners.storage.rundir import RunDirectory


def make_runs(cells: Sequence[Cell], experiment: Path, replicas: int | None = 1) -> list[Run]:
    """Cells that differ in their seed alone, in groups that are trained together.

    A group that has begun and has a checkpoint stays together, whatever `replicas` says now.

    Args:
        cells: unfinished cells.
        experiment: where they live.
        replicas: most seeds of a run; None is as many as the agent takes.
    """
    runs: list[Run] = []
    methods: dict[tuple[str, str], list[Cell]] = {}
    begun: set[str] = set()
    for cell in cells:
        group = _begun(cell, experiment)
        if not group:
            methods.setdefault((cell.task, cell.label), []).append(cell)
        elif cell.name not in begun:
            begun |= {member.name for member in group}
            runs.append(group)
    for members in methods.values():
        agent = agent_for(algos.load(members[0].source), members[0].task)
        assert agent is not None, "unsupported cells make no run"
        size = min(n for n in (replicas, agent.max_replicas, len(members)) if n is not None)
        runs += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    place = {cell.name: i for i, cell in enumerate(cells)}
    return sorted(runs, key=lambda run: min(place.get(c.name, len(cells)) for c in run))


def _begun(cell: Cell, experiment: Path) -> Run:
    """Return the group that a cell is part of, if it can go on; empty if the cell is alone."""
    seeds = (RunDirectory(cell, experiment).read_manifest() or {}).get("replicas", [])
    group = tuple(dataclasses.replace(cell, seed=seed) for seed in seeds)
    if len(group) < 2:
        return ()
    saved = RunDirectory(group[0], experiment).checkpoints.glob("step-*")
    return group if any(saved) else ()

"""A cell: one (task, method, options, seed)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.cells.protocols import Protocol


@dataclass(frozen=True)
class Cell:
    """One (task, algo, resolved options, seed): what is scheduled, resumed and plotted.

    Attributes:
        task: task id.
        algo: algorithm name.
        label: `<algo>[@<variant>]`, the name of its folder.
        config: every option with its resolved value.
        seed: seed index.
        protocol: what it has in common with all cells of its experiment.
        file: path of the algorithm's file if it is not one of the project's.
        inert: options that its identity leaves out, see `algos.parts.config.option`.
        retired: values that its identity has as well, see `algos.parts.config.AgentConfig`.
    """

    task: str
    algo: str
    label: str
    config: Mapping[str, Any]
    seed: int
    protocol: Protocol
    file: str | None = None
    inert: frozenset[str] = frozenset()
    retired: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What `algos.load` takes for this cell's algorithm."""
        return self.file or self.algo

    @property
    def name(self) -> str:
        """Short name for people: `task label seed`."""
        return f"{self.task} {self.label} seed {self.seed}"

    def path(self, experiment: Path) -> Path:
        """Return the cell's run directory."""
        return experiment / self.task / self.label / f"seed-{self.seed}"

    @property
    def identity(self) -> str:
        """Hash of the resolved values that decide the result, never of source text."""
        protocol = self.protocol.manifest()
        facts = {
            "task": self.task,
            "algo": self.algo,
            "config": {k: v for k, v in self.config.items() if k not in self.inert}
            | dict(self.retired),
            "seed": self.seed,
            "rules": {  # the key that identities of kept runs were made with
                key: protocol[key] for key in ("steps", "eval_every", "eval_episodes", "log_every")
            },
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Run = tuple[Cell, ...]
"""The cells of one process: seeds of one (task, algorithm, options) that are trained together."""

"""What run.json records of the code, the packages and the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import algos
import envs
from algos.parts.precision import arithmetic
from runners.cells.cell import Cell
from runners.cells.schema import FORMAT

CIRCUMSTANCES = ("code", "packages", "machine", "precision", "device")
"""What may be another when a run goes on: commit, versions and place."""
PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "dm-control", "safetensors")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def code_version() -> dict[str, Any]:
    """Version, commit and whether files differ from the commit (None without git)."""
    try:
        version = metadata.version("levelfield")
    except metadata.PackageNotFoundError:
        version = "not installed"
    changes = _git("status", "--porcelain", "--untracked-files=no")
    dirty = None if changes is None else bool(changes)
    return {"version": version, "commit": _git("rev-parse", "HEAD"), "dirty": dirty}


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@cache
def machine() -> dict[str, Any]:
    """Processor, cores and system."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "system": f"{sys.platform} {platform.machine()}"}


def now() -> str:
    """UTC time to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def build(cell: Cell, device: str) -> dict[str, Any]:
    """Return the run.json of a cell that starts now."""
    agent, facts_of_task = algos.load(cell.source), envs.task(cell.task)
    agent = algos.versions(agent).get(facts_of_task.observation_kind, agent)
    task = asdict(facts_of_task)
    facts = ("obs_shape", "action_dim", "max_episode_steps", "terminates", "action_repeat")
    record = {
        "format": FORMAT,
        "cell": cell.identity,
        "task": cell.task,
        "algo": cell.algo,
        "label": cell.label,
        "title": agent.title,
        "seed": cell.seed,
        "status": "running",
        "reason": None,
        "steps": cell.protocol.steps,
        "config": dict(cell.config),
        "protocol": cell.protocol.manifest(),
        "task_facts": {name: task[name] for name in (*facts, "source")} | dict(task["facts"]),
        "code": code_version(),
        "packages": package_versions(),
        "machine": machine(),
        "threads": 1,
        "precision": arithmetic(cell.config["precision"], torch.device(device)),
        "device": device,
        "started": now(),
        "resumed": 0,
        "wall_seconds": 0.0,
    }
    if cell.file is not None:
        file = Path(cell.file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        record["file"] = {"name": file.name, "sha256": digest}
    return record

"""Writes small experiments in the runners' format."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVALUATIONS_HEADER = "env_step,episode,return,length,success"
SUCCESS_HEADER = f"{EVALUATIONS_HEADER},final_success"
TIMING_HEADER = "env_step,env,act,update,eval"


def protocol(**changes: Any) -> dict[str, Any]:
    facts = {
        "name": "quick",
        "reduced": True,
        "steps": 3000,
        "eval_every": 1000,
        "eval_episodes": 3,
        "reported": "last",
        "note": "Short runs.",
    }
    return facts | changes


def write_experiment(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    facts = protocol(**changes)
    data = {"format": 1, "name": facts["name"], "protocol": facts}
    (folder / "experiment.json").write_text(json.dumps(data))
    return folder


def write_run(
    folder: Path,
    task: str,
    label: str,
    seed: int,
    returns: Sequence[float],
    *,
    title: str | None = None,
    status: str = "done",
    reason: str | None = None,
    seconds: Mapping[str, float] | None = None,
    every: int = 1000,
    success: Sequence[tuple[int, int]] = (),
) -> Path:
    """Writes one cell; `returns` are the mean returns of its evaluations, of two episodes each.

    `seconds` are the seconds per 1000 environment steps in each phase. With `success` the task
    reports it: for each evaluation, how many of the two episodes succeed at any step, and how many
    at the last step.
    """
    cell = folder / task / label / f"seed-{seed}"
    cell.mkdir(parents=True)
    run = {
        "format": 1,
        "cell": f"{label}-{seed}",
        "task": task,
        "algo": label.split("@")[0],
        "label": label,
        "title": title or label.split("@")[0].upper(),
        "seed": seed,
        "status": status,
        "reason": reason,
        "steps": every * len(returns),
        "config": {},
        "protocol": protocol(),
        "task_facts": {},
        "code": {"version": "0.1.0", "commit": "abc", "dirty": False},
        "packages": {},
        "machine": {"cpu": "test processor", "cores": 2},
        "threads": 1,
        "precision": "float32",
        "device": "cpu",
        "wall_seconds": 1.0,
    }
    (cell / "run.json").write_text(json.dumps(run))
    seconds = seconds or {"env": 0.5, "act": 0.25, "update": 2.0, "eval": 0.25}
    header = SUCCESS_HEADER if success else EVALUATIONS_HEADER
    evaluations, timing, train = [header], [TIMING_HEADER], ["env_step,critic_loss"]
    for index, value in enumerate(returns, start=1):
        step = index * every
        for episode, offset in enumerate((-1.0, 1.0)):
            reached = (
                [str(int(episode < count)) for count in success[index - 1]] if success else [""]
            )
            evaluations.append(f"{step},{episode},{value + offset},100,{','.join(reached)}")
        phases = (seconds[phase] * step / 1000 for phase in TIMING_HEADER.split(",")[1:])
        timing.append(",".join(str(number) for number in (step, *phases)))
        train.append(f"{step},{0.1 * index}")
    for name, lines in {"evaluations": evaluations, "timing": timing, "train": train}.items():
        (cell / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return cell


def tracked(folder):
    """List the files below a folder that git keeps, relative to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name]

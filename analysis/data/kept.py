"""The experiments that belong to the repository."""

import subprocess
from pathlib import Path

from analysis.data.experiment import Experiment
from analysis.data.load import load
from analysis.data.logs import ExperimentError


def kept_experiments(results: Path) -> list[Experiment]:
    """Load the experiments that belong to the repository.

    They are those that git tracks, because other experiments in the folder are scratch; where
    there is no git repository they are all.

    Raises:
        ExperimentError: there is none, or one cannot be loaded.
    """
    files = {file.relative_to(results).as_posix() for file in results.glob("*/experiment.json")}
    tracked = _tracked(results)
    kept = sorted(files if tracked is None else files & tracked)
    if not kept:
        raise ExperimentError(f"no kept experiment in '{results}'; expected {results}/quick")
    return [load((results / file).parent) for file in kept]


def _tracked(folder: Path) -> set[str] | None:
    """List the files below a folder that git tracks, None without a repository."""
    command = ["git", "-C", str(folder), "ls-files"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(done.stdout.splitlines())

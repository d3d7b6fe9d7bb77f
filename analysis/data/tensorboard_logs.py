"""Reading the TensorBoard logs of Stable-Baselines3 and CleanRL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.data.experiment import natural
from analysis.data.importing import COLUMNS, ImportedError

TAGS: Mapping[str, tuple[str, bool]] = {
    "eval/mean_reward": ("Stable-Baselines3", False),
    "rollout/ep_rew_mean": ("Stable-Baselines3", True),
    "charts/episodic_return": ("CleanRL", True),
}
"""The scalars that hold returns, best first: who writes each, and whether it is of training."""

EVENTS = "events.out.tfevents.*"


@dataclass(frozen=True)
class Logs:
    """The returns that some runs logged.

    Attributes:
        tag: the scalar that was read.
        framework: who wrote it.
        training: whether it is of training episodes, which end at other steps in each run.
        runs: for each run, by its folder's name, the columns env_step and return; in the order of
            the names, with numbers as numbers.
    """

    tag: str
    framework: str
    training: bool
    runs: Mapping[str, pd.DataFrame]

    @property
    def seeds(self) -> list[int]:
        """The seeds that CleanRL writes into the names of its folders, else numbers from 0 on."""
        found = [re.search(r"__(\d+)__\d+$", name) for name in self.runs]
        seeds = [int(match[1]) for match in found if match]
        return seeds if len(set(seeds)) == len(self.runs) else list(range(len(self.runs)))

    def table(self, every: int) -> pd.DataFrame:
        """Return the logged values as evaluation episodes, with the columns `importing.COLUMNS`.

        Args:
            every: training episodes are gathered at the nearest multiple of so many steps, so that
                seeds can be averaged; evaluations stay where they are.
        """
        last = int(max(run["env_step"].max() for run in self.runs.values()))
        window = min(every, max(last, 1))
        parts = []
        for seed, run in zip(self.seeds, self.runs.values(), strict=True):
            steps = run["env_step"]
            if self.training:
                steps = ((steps / window).round().clip(lower=1) * window).astype(int)
            part = run.assign(seed=seed, env_step=steps)
            parts.append(part.assign(episode=part.groupby("env_step").cumcount()))
        return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def read(folder: Path, tag: str | None = None) -> Logs:
    """Read the runs below a folder.

    Args:
        folder: every folder in it (or itself) that holds event files is a run.
        tag: the scalar to read; without it the first of `TAGS` that every run has.

    Raises:
        ImportedError: there is no run, a run lacks the scalar, or tensorboard is not installed.
    """
    if not folder.is_dir():
        raise ImportedError(f"no folder '{folder}'; expected one with TensorBoard event files")
    files: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob(EVENTS)):
        files.setdefault(file.parent, []).append(file)
    if not files:
        raise ImportedError(f"no event file in '{folder}'; expected files {EVENTS}")
    scalars = {
        path.relative_to(folder).as_posix() if path != folder else folder.resolve().name: _read(
            parts
        )
        for path, parts in files.items()
    }
    chosen = tag or next((x for x in TAGS if all(x in run for run in scalars.values())), None)
    for name, run in scalars.items():
        if chosen not in run:
            wanted = chosen or " or ".join(TAGS)
            known = ", ".join(sorted(run)) or "none"
            raise ImportedError(f"run '{name}' has no scalar {wanted}; scalars there: {known}")
    assert chosen is not None
    framework, training = TAGS.get(chosen, ("another tool", True))
    ordered = sorted(scalars, key=natural)
    runs = {name: _frame(scalars[name][chosen], training=training) for name in ordered}
    return Logs(chosen, framework, training, runs)


def _read(files: list[Path]) -> dict[str, list[tuple[int, float]]]:
    """Read all scalars of a run as (step, value); a last record that is half written is left."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportedError(
            "reading TensorBoard logs needs the package tensorboard: pip install tensorboard"
        ) from error
    scalars: dict[str, list[tuple[int, float]]] = {}
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                # The loader turns scalars of every age into tensors.
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(make_ndarray(value.tensor).item())
                    scalars.setdefault(value.tag, []).append((event.step, number))
    return scalars


def _frame(values: list[tuple[int, float]], *, training: bool) -> pd.DataFrame:
    frame = pd.DataFrame(values, columns=["env_step", "return"])
    if not training:
        # A run that was taken up again logs some evaluations twice; the later one counts.
        frame = frame.drop_duplicates("env_step", keep="last")
    return frame.sort_values("env_step", kind="stable", ignore_index=True)

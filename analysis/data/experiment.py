"""An experiment in memory: one row per run, per evaluation episode and per line of timing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis.data.logs import read_table
from analysis.statistics.types import Array

Measure = Literal["return", "success", "final_success"]
"""A column of an evaluation whose mean over the episodes is its result."""

SUCCESS_MEASURES: Mapping[Measure, str] = {"success": "any step", "final_success": "last step"}
"""The two readings of success: when in the episode the task has to be done."""

MEASURES: tuple[Measure, ...] = ("return", *SUCCESS_MEASURES)

RUN = ["task", "label", "seed"]
"""The columns that name a run."""

RunKey = tuple[str, str, int]


@dataclass(frozen=True)
class ProtocolRecord:
    """What experiment.json says about the protocol that the runs followed.

    Attributes:
        name: name of the protocol.
        reduced: True if cheaper than what papers report.
        steps: length of a run in environment steps.
        eval_every: environment steps between evaluations.
        eval_episodes: episodes of one evaluation.
        reported: names in `RUN_STATISTICS`; the first is the primary one.
        note: free text.
    """

    name: str
    reduced: bool
    steps: int
    eval_every: int
    eval_episodes: int
    reported: tuple[str, ...]
    note: str

    @property
    def notice(self) -> str:
        """What every output of a reduced protocol must say; empty for a full one."""
        if not self.reduced:
            return ""
        return f"reduced protocol `{self.name}`: not comparable with published numbers"


@dataclass(frozen=True)
class Experiment:
    """All cells of an experiment folder.

    Attributes:
        path: the folder.
        name: the experiment's name.
        protocol: what its runs followed.
        runs: one row per cell: task, label, title, seed, status, reason, steps, evaluations (their
            number), code, machine, settings, wall_seconds, path. The status is one of
            `statuses.RECORDED`, `missing` (no run here, but the same seed ran elsewhere in the
            experiment) or `unreadable` (its run.json breaks the format).
        evaluations: one row per evaluation episode: task, label, seed, `EVALUATION_COLUMNS` and
            `SUCCESS_COLUMNS`; success is 0 or 1, NaN where the task does not report it.
        timing: one row per evaluation: task, label, seed and `TIMING_COLUMNS`, in seconds since
            the start of the run.
    """

    path: Path
    name: str
    protocol: ProtocolRecord
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    timing: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """Task ids in natural order."""
        return sorted(self.runs["task"].unique(), key=natural)

    @property
    def labels(self) -> list[str]:
        """Method labels, `<algo>[@<variant>]`, in natural order."""
        return sorted(self.runs["label"].unique(), key=natural)

    @cached_property
    def names(self) -> dict[str, str]:
        """The name to print for each label: the method's title and its variant."""
        titles = self.runs.groupby("label")["title"].first()
        names = {}
        for label in self.labels:
            algo, _, variant = label.partition("@")
            title = titles[label] or algo
            names[label] = f"{title} ({variant})" if variant else title
        repeated = {name for name in names.values() if list(names.values()).count(name) > 1}
        return {label: label if name in repeated else name for label, name in names.items()}

    @cached_property
    def success_tasks(self) -> list[str]:
        """The tasks with an evaluation that reports success, in natural order."""
        columns = list(SUCCESS_MEASURES)
        reporting = self.evaluations.loc[self.evaluations[columns].notna().any(axis=1), "task"]
        return sorted(reporting.unique(), key=natural)

    def measures(self, task: str) -> tuple[Measure, ...]:
        """Return the measures that a task has, the one to judge it by first."""
        return (*SUCCESS_MEASURES, "return") if task in self.success_tasks else ("return",)

    def curves(self, measure: Measure = "return") -> pd.DataFrame:
        """Return one row per evaluation: task, label, seed, env_step and the measure.

        Args:
            measure: what to average over the evaluation's episodes: `return`, in the task's reward
                units, or a rate in [0, 1], of `success` (at any step of the episode) or of
                `final_success` (at its last step). It is NaN if one episode is not finite, and so
                are the rates of a task that does not report success.
        """
        return self._results[[*RUN, "env_step", measure]]

    def run_curves(self, measure: Measure = "return") -> dict[RunKey, tuple[Array, Array]]:
        """Return the curves of single runs.

        Args:
            measure: as in `curves`.

        Returns:
            For each (task, label, seed) with an evaluation, the environment steps [evaluations] in
            increasing order and the results [evaluations].
        """
        columns = self._results["env_step"].to_numpy(), self._results[measure].to_numpy()
        return {key: (columns[0][rows], columns[1][rows]) for key, rows in self._rows.items()}

    @cached_property
    def _results(self) -> pd.DataFrame:
        """One row per evaluation with all measures, sorted by run and step."""
        measures, keys = list(MEASURES), [*RUN, "env_step"]
        # The episodes of an evaluation stand together. So it is enough to sort and to number the
        # stretches of equal keys, a tenth of the rows or fewer, instead of all rows.
        first = np.zeros(len(self.evaluations), dtype=bool)
        for key in keys:
            values = self.evaluations[key].to_numpy()
            first[1:] |= values[1:] != values[:-1]
        first[:1] = True
        stretches = self.evaluations.loc[first, keys].groupby(keys, sort=True)
        lengths = np.diff(np.flatnonzero(first), append=len(first))
        numbers = np.repeat(stretches.ngroup().to_numpy(), lengths)
        episodes = self.evaluations[measures]
        groups = episodes.where(np.isfinite(episodes)).groupby(numbers)
        whole = groups.count().eq(groups.size(), axis=0)
        return stretches.size().index.to_frame(index=False).join(groups.mean().where(whole))

    @cached_property
    def _rows(self) -> dict[RunKey, slice]:
        """Where the evaluations of each run are in `_results`."""
        numbers = self._results.groupby(RUN, sort=True).size()
        ends = numbers.cumsum()
        slices = map(slice, ends - numbers, ends)
        return dict(zip(numbers.index, slices, strict=True))

    def train(self, task: str, label: str, seed: int) -> pd.DataFrame:
        """Read the training log of one cell: env_step and the method's own metric columns.

        Raises:
            ExperimentError: the file's header does not start with env_step.
        """
        return read_table(self.path / task / label / f"seed-{seed}" / "train.csv", ["env_step"])


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which `x=3` comes before `x=10`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]

"""Which of the cells that a target needs there are, and the commands that run the others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.experiment import RUN, Experiment, ProtocolRecord, RunKey
from analysis.data.provenance import sweep_arguments
from analysis.data.published import printed_names
from analysis.papers.targets import Target
from runners.cells.schema import EVALUATION_COLUMNS, SUCCESS_COLUMNS, TIMING_COLUMNS

SHORTER = "shorter"
"""Status of a cell for which there is a finished run of the protocol over fewer steps only."""


@dataclass(frozen=True)
class Coverage:
    """The runs that a target can be drawn from.

    Attributes:
        target: what needs them.
        experiment: the needed cells as one experiment, with a row for each. The status of those
            without a full run is that of the best run there is: `failed`, `diverged`, `running`,
            `SHORTER`, or `missing` if there is none.
        shorter: the experiment that the shorter runs of each (task, label) come from.
        destination: folder of the experiment that the missing cells should run in.
    """

    target: Target
    experiment: Experiment
    shorter: Mapping[tuple[str, str], Experiment]
    destination: Path

    @property
    def missing(self) -> list[RunKey]:
        """The cells without a finished full run."""
        runs = self.experiment.runs
        return list(runs.loc[runs["status"] != "done", RUN].itertuples(index=False, name=None))

    @property
    def status(self) -> str:
        """How many of the cells there are, for a figure."""
        runs = self.experiment.runs["status"]
        text = f"{(runs == 'done').sum()} of {len(runs)} cells have a finished run"
        others = runs[runs != "done"].value_counts().sort_index()
        parts = [f"{number} {status}" for status, number in others.items()]
        return f"{text}; {', '.join(parts)}" if parts else text

    @property
    def notice(self) -> str:
        """What a figure with holes, or of a reduced protocol, must say; else empty."""
        reduced = self.experiment.protocol.notice
        return "; ".join(
            [*([self.status] if self.missing else []), *([reduced] if reduced else [])]
        )

    def commands(self) -> list[list[str]]:
        """Give what follows `python` to run exactly the missing cells."""
        target = self.target
        seeds: dict[tuple[str, str], tuple[int, ...]] = {}
        for task, label, seed in self.missing:
            seeds[label, task] = (*seeds.get((label, task), ()), seed)
        tasks: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for label in target.labels:
            for task in target.tasks:
                if (label, task) in seeds:
                    tasks.setdefault((label, seeds[label, task]), []).append(task)
        labels: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
        for (label, numbers), names in tasks.items():
            labels.setdefault((tuple(names), numbers), []).append(label)
        folder = self.destination
        # A name without a slash would be taken for a folder of results/.
        where = str(folder) if len(folder.parts) > 1 else f"./{folder}"
        return [
            arguments
            for (names, numbers), group in labels.items()
            for arguments in sweep_arguments(
                group, names, numbers, target.protocol.name, target.steps, where
            )
        ]

    def tool_commands(self) -> list[list[str]]:
        """Give what follows `python` to make the files that finished runs lack."""
        if not self.target.tool:
            return []
        runs = self.experiment.runs
        folders = runs.loc[runs["status"] == "done", "path"]
        return [
            ["-m", self.target.tool, str(folder)]
            for folder in folders
            if not (folder / self.target.file).exists()
        ]


def cover(target: Target, experiments: Sequence[Experiment], destination: Path) -> Coverage:
    """Find the runs of a target.

    A cell's run comes from the first experiment that has finished it by the target's protocol over
    all its steps. If there is none for any seed of a task and label, finished runs of the protocol
    over fewer steps stand in, from the experiment with the longest ones.

    Args:
        target: what needs the runs.
        experiments: where to look; those of other protocols are passed over.
        destination: folder of the experiment that the missing cells should run in.
    """
    same = [e for e in experiments if e.protocol.name == target.protocol.name]
    full = [e for e in same if e.protocol.steps == target.steps]
    partial = sorted(
        (e for e in same if e.protocol.steps < target.steps), key=lambda e: -e.protocol.steps
    )
    rows = {id(e): _rows(e) for e in same}
    chosen: dict[RunKey, tuple[Experiment, dict[str, Any]]] = {}
    for key in target.cells():
        found = [(e, rows[id(e)][key]) for e in full if key in rows[id(e)]]
        found = [pair for pair in found if pair[1]["status"] != "missing"]
        if found:
            # Of equals the first.
            chosen[key] = min(found, key=lambda pair: pair[1]["status"] != "done")
    shorter: dict[tuple[str, str], Experiment] = {}
    for task in target.tasks:
        for label in target.labels:
            cells = [(task, label, seed) for seed in range(target.seeds)]
            if any(key in chosen for key in cells):
                continue
            for experiment in partial:
                of = rows[id(experiment)]
                done = [key for key in cells if key in of and of[key]["status"] == "done"]
                if done:
                    shorter[task, label] = experiment
                    chosen |= {
                        key: (
                            experiment,
                            of[key] | {"status": SHORTER, "reason": _reason(experiment)},
                        )
                        for key in done
                    }
                    break
    return Coverage(target, _joined(target, chosen), shorter, destination)


def _reason(experiment: Experiment) -> str:
    return f"{experiment.protocol.steps:,} steps, experiment {experiment.name}"


def _rows(experiment: Experiment) -> dict[RunKey, dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in experiment.runs.to_dict("records")
    ]
    return {(row["task"], row["label"], row["seed"]): row for row in records}


def _joined(
    target: Target, chosen: Mapping[RunKey, tuple[Experiment, dict[str, Any]]]
) -> Experiment:
    """Join the chosen runs to one experiment with a row for each cell of the target."""
    runs = []
    for task, label, seed in target.cells():
        if (task, label, seed) in chosen:
            runs.append(chosen[task, label, seed][1])
        else:
            runs.append(_missing(task, label, seed))
    frame = pd.DataFrame(runs)
    titles = frame.groupby("label")["title"].transform("first")
    frame["title"] = titles.where(titles.notna(), frame["label"].map(_published_title))
    origins = {id(e): e for e, _ in chosen.values()}
    keys = {name: [key for key, (e, _) in chosen.items() if id(e) == name] for name in origins}
    columns = {
        "evaluations": [*RUN, *EVALUATION_COLUMNS, *SUCCESS_COLUMNS],
        "timing": [*RUN, *TIMING_COLUMNS],
    }
    tables = {
        part: _stacked([_of(getattr(e, part), keys[name]) for name, e in origins.items()], names)
        for part, names in columns.items()
    }
    reduced = any(e.protocol.reduced and e.protocol.steps == target.steps for e in origins.values())
    protocol = ProtocolRecord(
        target.protocol.name, reduced, target.steps, 0, 0, target.statistics, target.paper
    )
    return Experiment(Path(target.name), target.name, protocol, frame, **tables)


def _published_title(label: str) -> str:
    """Return what papers call the algorithm of a label, for want of a run that says it."""
    algo = label.partition("@")[0]
    return printed_names().get(algo, algo)


def _missing(task: str, label: str, seed: int) -> dict[str, Any]:
    facts = {"title": None, "status": "missing", "reason": "no run", "steps": None}
    texts = dict.fromkeys(("code", "machine", "settings"), "")
    rest = {"wall_seconds": None, "path": None, "evaluations": 0}
    return {"task": task, "label": label, "seed": seed} | facts | texts | rest


def _of(table: pd.DataFrame, keys: Sequence[RunKey]) -> pd.DataFrame:
    """Return the lines of some cells."""
    return table.merge(pd.DataFrame(keys, columns=RUN), on=RUN)


def _stacked(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    empty = pd.DataFrame(columns=list(columns), dtype=float)
    return empty.astype({"task": str, "label": str, "seed": int})


def unused(target: Target, experiments: Sequence[Experiment]) -> Iterator[str]:
    """Say which experiments a target passes over, and why."""
    for experiment in experiments:
        if experiment.protocol.name != target.protocol.name:
            yield f"{experiment.name} (protocol {experiment.protocol.name})"

"""How two experiments differ in their protocols, circumstances and options."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.data.experiment import Experiment, natural

FACTS = ("code", "packages", "machine", "threads", "precision", "device")
"""What of a run.json describes the circumstances of a run; its options are compared by method."""

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Change:
    """A difference between the manifests of two experiments.

    Attributes:
        subject: what differs, such as `packages.torch` or `sac: tau`.
        before: its values in the first experiment.
        after: its values in the second.
    """

    subject: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.before} → {self.after}"


def what_changed(
    before: Experiment, after: Experiment, matches: Sequence[tuple[str, str]]
) -> list[Change]:
    """List how the protocols, the circumstances and the methods' options differ."""
    changes = [
        Change(f"protocol {name}", str(old), str(new))
        for (name, old), new in zip(
            asdict(before.protocol).items(), asdict(after.protocol).values(), strict=True
        )
        if old != new
    ]
    manifests = [
        _manifests(experiment, dict.fromkeys(labels))
        for experiment, labels in zip((before, after), zip(*matches, strict=True), strict=True)
    ]
    every = [[run for runs in side.values() for run in runs] for side in manifests]
    changes += _differences("", *(_values_of([_facts(run) for run in runs]) for runs in every))
    for labels in matches:
        options = (
            _values_of([_flat(run.get("config") or {}) for run in side[label]])
            for side, label in zip(manifests, labels, strict=True)
        )
        changes += _differences(f"{common_name(before, after, labels)}: ", *options)
    changes += [
        Change(word, ", ".join(missing[0]) or "none", ", ".join(missing[1]) or "none")
        for word, missing in _only(before, after, matches)
    ]
    return changes


def common_name(before: Experiment, after: Experiment, labels: tuple[str, str]) -> str:
    """Return what to call a method that may have another label in each experiment."""
    first, second = before.names[labels[0]], after.names[labels[1]]
    return first if labels[0] == labels[1] else f"{first} → {second}"


def _only(
    before: Experiment, after: Experiment, matches: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
    """Return what only one of the experiments has and is thus not compared."""
    methods = (
        [label for label in before.labels if label not in {first for first, _ in matches}],
        [label for label in after.labels if label not in {second for _, second in matches}],
    )
    tasks = (
        [task for task in before.tasks if task not in after.tasks],
        [task for task in after.tasks if task not in before.tasks],
    )
    for word, missing in (("methods not compared", methods), ("tasks not compared", tasks)):
        if any(missing):
            yield word, missing


def _manifests(experiment: Experiment, labels: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Read every run.json that can be read, by label."""
    known = experiment.runs[~experiment.runs["status"].isin(["missing", "unreadable"])]
    return {
        label: [
            json.loads((path / "run.json").read_text(encoding="utf-8"))
            for path in known.loc[known["label"] == label, "path"]
        ]
        for label in labels
    }


def _facts(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the circumstances of a run, nested names joined by dots."""
    return _flat({name: run[name] for name in FACTS if run.get(name) is not None})


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": text for part, text in _flat(value).items()}
        else:
            flat[name] = str(value)
    return flat


def _values_of(runs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return all values that each fact has over some runs, the values in natural order."""
    values: dict[str, set[str]] = {}
    for facts in runs:
        for name, value in facts.items():
            values.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(found, key=natural)) for name, found in values.items()}


def _differences(
    prefix: str, before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name, UNKNOWN), after.get(name, UNKNOWN)
        if old != new:
            yield Change(f"{prefix}{name}", old, new)

"""Whether the runs support a claim.

A test is decided when the 95 % interval of its effect lies wholly inside the range that the claim
asks for, or wholly outside. Runs of a reduced protocol or of another budget never decide.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import isfinite, log

import numpy as np
import pandas as pd

from analysis.data.experiment import Experiment, Measure, ProtocolRecord
from analysis.data.run_times import measure_run_times
from analysis.data.values import run_values
from analysis.papers.claim import SECONDS, Claim, ClaimTest, Side
from analysis.statistics.effects import difference, logarithms, ratio, seeds_needed
from analysis.statistics.intervals import Estimate
from analysis.statistics.types import Array

SUPPORTED, REFUTED, OPEN = "supported", "not supported", "not enough data"
REDUCED = "reduced protocol"

MIN_SEEDS = 3
"""Fewer decide nothing: two runs that end alike, such as at a success rate of 1, show no spread."""

Method = frozenset[str]
"""A label without the order of its options."""


@dataclass(frozen=True)
class Sample:
    """The runs of one side in one experiment.

    Attributes:
        experiment: where they are.
        values: the value of each run that counts, indexed by seed.
    """

    experiment: Experiment
    values: pd.Series


@dataclass(frozen=True)
class Outcome:
    """What the runs say about one test.

    Attributes:
        test: the test.
        word: `SUPPORTED`, `REFUTED` or `OPEN`.
        reasons: why it is open.
        estimate: the effect with its 95 % interval, None without runs.
        samples: the runs of each side that gave the estimate; empty without it.
        missing: the labels of the sides without enough runs that can decide.
        more: how many more seeds of each side would decide; None where that is not known.
    """

    test: ClaimTest
    word: str = OPEN
    reasons: tuple[str, ...] = ()
    estimate: Estimate | None = None
    samples: tuple[Sample, ...] = ()
    missing: tuple[str, ...] = ()
    more: int | None = None


@dataclass(frozen=True)
class Finding:
    """What the runs say about a claim.

    Attributes:
        claim: the claim.
        outcomes: one for each of its tests.
        word: `SUPPORTED`, `REFUTED` or `OPEN`.
    """

    claim: Claim
    outcomes: tuple[Outcome, ...]
    word: str

    def count(self, word: str) -> int:
        """Count the tests with this outcome."""
        return sum(outcome.word == word for outcome in self.outcomes)

    @property
    def missing(self) -> dict[str, list[str]]:
        """The tasks of the cells that lack runs, for each label."""
        tasks: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            for label in outcome.missing:
                known = tasks.setdefault(label, [])
                if outcome.test.task not in known:
                    known.append(outcome.test.task)
        return tasks


def decide(chosen: Iterable[Claim], experiments: Sequence[Experiment]) -> list[Finding]:
    """Decide claims by the runs of some experiments."""
    evidence = Evidence(experiments)
    findings = []
    for claim in chosen:
        outcomes = tuple(_decide_test(test, claim, evidence) for test in claim.tests)
        words = [outcome.word for outcome in outcomes]
        word = OPEN
        if words.count(SUPPORTED) >= claim.needed:
            word = SUPPORTED
        elif words.count(REFUTED) > len(words) - claim.needed:
            word = REFUTED
        findings.append(Finding(claim, outcomes, word))
    return findings


class Evidence:
    """The values of all runs of some experiments, each computed once."""

    def __init__(self, experiments: Sequence[Experiment]):
        self._experiments = experiments
        self._tables = cache(self._tabulate)

    def samples(self, task: str, side: Side, measure: Measure) -> list[Sample]:
        """Return the runs of a side that count, one sample for each experiment that has some."""
        tables = (self._tables(i, side.value, measure) for i in range(len(self._experiments)))
        return [
            Sample(experiment, table[task, _method(side.label)])
            for experiment, table in zip(self._experiments, tables, strict=True)
            if (task, _method(side.label)) in table
        ]

    def _tabulate(
        self, position: int, value: str, measure: Measure
    ) -> dict[tuple[str, Method], pd.Series]:
        experiment = self._experiments[position]
        if value == SECONDS:
            times = measure_run_times(experiment)
            runs = times.assign(value=times["total"])
        else:
            runs = run_values(experiment, value, measure)
        counted = runs[runs["mark"] == ""].set_index("seed")
        return {
            (str(task), _method(str(label))): group["value"]
            for (task, label), group in counted.groupby(["task", "label"])
        }


def measure_effect(test: ClaimTest, values: Sequence[Array], *, paired: bool) -> Estimate | None:
    """Estimate the effect that a test is about, with its 95 % interval.

    Args:
        test: the test.
        values: for each side the value of each run [runs].
        paired: whether the runs at one place share environment and seed.

    Returns:
        The effect in the unit of the test; None if a ratio has no logarithm.
    """
    if test.effect == "level":
        [x] = values
        return difference(x, np.zeros_like(x), paired=True)
    x, y = values
    return (ratio if test.effect == "ratio" else difference)(x, y, paired=paired)


def _decide_test(test: ClaimTest, claim: Claim, evidence: Evidence) -> Outcome:
    """Decide one test of a claim by the runs that suit it best."""
    found = [evidence.samples(test.task, side, test.measure) for side in test.sides]
    choices = [pair for pair in product(*found) if _follow_one_rule(pair, test)]
    if not choices:
        able = [any(not _unsuitable(x.experiment, claim) for x in samples) for samples in found]
        # Where each side has runs of its own, they cannot be compared and all have to run again.
        lacking = [side.label for side, can in zip(test.sides, able, strict=True) if not can]
        missing = tuple(lacking or (side.label for side in test.sides))
        return Outcome(test, reasons=("no runs to compare",), missing=missing)
    samples = max(choices, key=lambda pair: _rank(pair, test, claim))
    paired = _paired(samples)
    values = [x.values.sort_index().to_numpy(dtype=float) for x in samples]
    estimate = measure_effect(test, values, paired=paired)
    reasons = list(_objections(samples, test, claim))
    if estimate is None:
        reasons.append("a value is not positive, so no ratio")
    missing = tuple(
        side.label
        for side, sample in zip(test.sides, samples, strict=True)
        if len(sample.values) < MIN_SEEDS or _objections([sample], test, claim)
    )
    outcome = Outcome(test, OPEN, tuple(reasons), estimate, samples, missing)
    return outcome if reasons else _conclude(outcome, values, paired=paired)


def _conclude(outcome: Outcome, values: Sequence[Array], *, paired: bool) -> Outcome:
    """Decide a test that nothing speaks against, or say how many more seeds would."""
    test, estimate = outcome.test, outcome.estimate
    assert estimate is not None
    fewest = min(len(sample) for sample in values)
    if fewest >= MIN_SEEDS:
        if test.above < estimate.low and estimate.high < test.below:
            return replace(outcome, word=SUPPORTED)
        if estimate.high <= test.above or estimate.low >= test.below:
            return replace(outcome, word=REFUTED)
    more = _seeds_needed(test, values, estimate, paired=paired)
    reasons = [f"{fewest} of at least {MIN_SEEDS} seeds"] if fewest < MIN_SEEDS else []
    if more is not None:
        reasons.append(f"{more} more {'seed' if more == 1 else 'seeds'} would decide")
    elif fewest >= 2:
        reasons.append("not even 1,000 more seeds would decide")
    return replace(outcome, reasons=tuple(reasons), more=more)


def _seeds_needed(
    test: ClaimTest, values: Sequence[Array], estimate: Estimate, *, paired: bool
) -> int | None:
    """Return how many more seeds of each side would decide a test; None if that is not known."""
    x, y = values if test.other else (values[0], np.zeros_like(values[0]))
    compared = logarithms(x, y) if test.effect == "ratio" else (x, y)
    assert compared is not None
    if test.above < estimate.point < test.below:
        # To hold, the interval has to leave out both ends of the range.
        ends = [end for end in (test.above, test.below) if isfinite(end)]
    else:
        ends = [test.above if estimate.point <= test.above else test.below]
    counts = [MIN_SEEDS - min(len(sample) for sample in values)]
    for end in ends:
        threshold = log(end) if test.effect == "ratio" else end
        more = seeds_needed(*compared, threshold=threshold, paired=paired or test.other is None)
        if more is None:
            return None
        counts.append(more)
    return max(counts)


def _method(label: str) -> Method:
    """Split a label into its algorithm, marked as such, and its options."""
    algo, _, variant = label.partition("@")
    return frozenset([f"{algo}@", *variant.split(",")])


def _follow_one_rule(samples: Sequence[Sample], test: ClaimTest) -> bool:
    """Return whether runs may be compared: of one budget, and run times within one experiment."""
    first, *others = (sample.experiment for sample in samples)
    if test.side.value == SECONDS:
        return all(other is first for other in others)
    return all(_budget(other.protocol) == _budget(first.protocol) for other in others)


def _budget(protocol: ProtocolRecord) -> tuple[int, int, int, bool]:
    return protocol.steps, protocol.eval_every, protocol.eval_episodes, protocol.reduced


def _rank(samples: Sequence[Sample], test: ClaimTest, claim: Claim) -> tuple[bool, bool, int]:
    """Sort what can decide last, then runs of one experiment, then many seeds."""
    one = all(sample.experiment is samples[0].experiment for sample in samples)
    seeds = min(len(sample.values) for sample in samples)
    return not _objections(samples, test, claim), one, seeds


def _objections(samples: Sequence[Sample], test: ClaimTest, claim: Claim) -> list[str]:
    """Return why these runs cannot decide a test."""
    reasons = [reason for sample in samples for reason in _unsuitable(sample.experiment, claim)]
    if test.side.value == SECONDS:
        timed = _finished(samples[0].experiment, test.task, test.sides)
        if len(timed[["machine", "settings"]].drop_duplicates()) > 1:
            reasons.append("run times of several machines or settings")
    if _differ_in_precision(test) and not _ran_differently(samples, test):
        reasons.append("runs of both in one precision: a machine without bfloat16")
    return list(dict.fromkeys(reasons))


def _differ_in_precision(test: ClaimTest) -> bool:
    """Return whether a test is about the option `precision`."""
    chosen = [{word for word in _method(side.label) if "precision=" in word} for side in test.sides]
    return any(options != chosen[0] for options in chosen)


def _ran_differently(samples: Sequence[Sample], test: ClaimTest) -> bool:
    """Return whether no run of one sample shares its settings with one of another."""
    settings = [
        set(_finished(sample.experiment, test.task, [side])["settings"])
        for sample, side in zip(samples, test.sides, strict=False)
    ]
    return len(set().union(*settings)) == sum(map(len, settings))


def _finished(experiment: Experiment, task: str, sides: Sequence[Side]) -> pd.DataFrame:
    """Return the finished runs of some methods on a task."""
    runs = experiment.runs
    methods = [_method(side.label) for side in sides]
    done = runs[(runs["task"] == task) & (runs["status"] == "done")]
    return done[done["label"].map(_method).isin(methods)]


def _unsuitable(experiment: Experiment, claim: Claim) -> list[str]:
    """Return why the runs of an experiment cannot decide a claim."""
    protocol = experiment.protocol
    reasons = [f"{REDUCED} (experiment {experiment.name})"] if protocol.reduced else []
    if protocol.steps != claim.protocol.steps:
        reasons.append(f"{protocol.steps:,} of {claim.protocol.steps:,} steps")
    return reasons


def _paired(samples: Sequence[Sample]) -> bool:
    """Return whether the sides have the same seeds in the same experiment."""
    first, *others = samples
    return all(
        other.experiment is first.experiment and set(other.values.index) == set(first.values.index)
        for other in others
    )

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

from analysis.data.load import Experiment, Measure, Protocol
from analysis.data.values import run_values
from analysis.drawing.runtime import run_times
from analysis.papers.claim_list import SECONDS, Arm, Claim, Part
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
    """The runs of one arm in one experiment.

    Attributes:
        experiment: Where they are.
        values: The value of each run that counts, indexed by seed.
    """

    experiment: Experiment
    values: pd.Series


@dataclass(frozen=True)
class Outcome:
    """What the runs say about one test.

    Attributes:
        part: The test.
        word: `SUPPORTED`, `REFUTED` or `OPEN`.
        reasons: Why it is open.
        estimate: The effect with its 95 % interval, None without runs.
        samples: The runs of each arm that gave the estimate; empty without it.
        missing: The labels of the arms without enough runs that can decide.
        more: How many more seeds of each arm would decide; None where that is not known.
    """

    part: Part
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
        claim: The claim.
        outcomes: One for each of its tests.
        word: `SUPPORTED`, `REFUTED` or `OPEN`.
    """

    claim: Claim
    outcomes: tuple[Outcome, ...]
    word: str

    def count(self, word: str) -> int:
        """Counts the tests with this outcome."""
        return sum(outcome.word == word for outcome in self.outcomes)

    @property
    def missing(self) -> dict[str, list[str]]:
        """The tasks of the cells that lack runs, for each label."""
        tasks: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            for label in outcome.missing:
                known = tasks.setdefault(label, [])
                if outcome.part.task not in known:
                    known.append(outcome.part.task)
        return tasks


def judge(chosen: Iterable[Claim], experiments: Sequence[Experiment]) -> list[Finding]:
    """Tests claims on the runs of some experiments."""
    evidence = Evidence(experiments)
    findings = []
    for claim in chosen:
        outcomes = tuple(_judge_part(part, claim, evidence) for part in claim.parts)
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

    def samples(self, task: str, arm: Arm, measure: Measure) -> list[Sample]:
        """Returns the runs of an arm that count, one sample for each experiment that has some."""
        tables = (self._tables(i, arm.value, measure) for i in range(len(self._experiments)))
        return [
            Sample(experiment, table[task, _method(arm.label)])
            for experiment, table in zip(self._experiments, tables, strict=True)
            if (task, _method(arm.label)) in table
        ]

    def _tabulate(
        self, position: int, value: str, measure: Measure
    ) -> dict[tuple[str, Method], pd.Series]:
        experiment = self._experiments[position]
        if value == SECONDS:
            times = run_times(experiment)
            runs = times.assign(value=times["total"])
        else:
            runs = run_values(experiment, value, measure)
        counted = runs[runs["mark"] == ""].set_index("seed")
        return {
            (str(task), _method(str(label))): group["value"]
            for (task, label), group in counted.groupby(["task", "label"])
        }


def measure_effect(part: Part, values: Sequence[Array], *, paired: bool) -> Estimate | None:
    """Estimates the effect that a test is about, with its 95 % interval.

    Args:
        part: The test.
        values: For each arm the value of each run [runs].
        paired: Whether the runs at one place share environment and seed.

    Returns:
        The effect in the unit of the test; None if a ratio has no logarithm.
    """
    if part.effect == "level":
        [x] = values
        return difference(x, np.zeros_like(x), paired=True)
    x, y = values
    return (ratio if part.effect == "ratio" else difference)(x, y, paired=paired)


def _judge_part(part: Part, claim: Claim, evidence: Evidence) -> Outcome:
    """Tests one part of a claim on the runs that suit it best."""
    found = [evidence.samples(part.task, arm, part.measure) for arm in part.arms]
    choices = [pair for pair in product(*found) if _follow_one_rule(pair, part)]
    if not choices:
        able = [any(not _unsuitable(x.experiment, claim) for x in samples) for samples in found]
        # Where each arm has runs of its own, they cannot be compared and all have to run again.
        lacking = [arm.label for arm, can in zip(part.arms, able, strict=True) if not can]
        missing = tuple(lacking or (arm.label for arm in part.arms))
        return Outcome(part, reasons=("no runs to compare",), missing=missing)
    samples = max(choices, key=lambda pair: _rank(pair, part, claim))
    paired = _paired(samples)
    values = [x.values.sort_index().to_numpy(dtype=float) for x in samples]
    estimate = measure_effect(part, values, paired=paired)
    reasons = list(_objections(samples, part, claim))
    if estimate is None:
        reasons.append("a value is not positive, so no ratio")
    missing = tuple(
        arm.label
        for arm, sample in zip(part.arms, samples, strict=True)
        if len(sample.values) < MIN_SEEDS or _objections([sample], part, claim)
    )
    outcome = Outcome(part, OPEN, tuple(reasons), estimate, samples, missing)
    return outcome if reasons else _decide(outcome, values, paired=paired)


def _decide(outcome: Outcome, values: Sequence[Array], *, paired: bool) -> Outcome:
    """Decides a test that nothing speaks against, or says how many more seeds would."""
    part, estimate = outcome.part, outcome.estimate
    assert estimate is not None
    fewest = min(len(sample) for sample in values)
    if fewest >= MIN_SEEDS:
        if part.above < estimate.low and estimate.high < part.below:
            return replace(outcome, word=SUPPORTED)
        if estimate.high <= part.above or estimate.low >= part.below:
            return replace(outcome, word=REFUTED)
    more = _seeds_needed(part, values, estimate, paired=paired)
    reasons = [f"{fewest} of at least {MIN_SEEDS} seeds"] if fewest < MIN_SEEDS else []
    if more is not None:
        reasons.append(f"{more} more {'seed' if more == 1 else 'seeds'} would decide")
    elif fewest >= 2:
        reasons.append("not even 1,000 more seeds would decide")
    return replace(outcome, reasons=tuple(reasons), more=more)


def _seeds_needed(
    part: Part, values: Sequence[Array], estimate: Estimate, *, paired: bool
) -> int | None:
    """How many more seeds of each arm would decide a test; None if that is not known."""
    x, y = values if part.other else (values[0], np.zeros_like(values[0]))
    compared = logarithms(x, y) if part.effect == "ratio" else (x, y)
    assert compared is not None
    if part.above < estimate.point < part.below:
        # To hold, the interval has to leave out both ends of the range.
        ends = [end for end in (part.above, part.below) if isfinite(end)]
    else:
        ends = [part.above if estimate.point <= part.above else part.below]
    counts = [MIN_SEEDS - min(len(sample) for sample in values)]
    for end in ends:
        threshold = log(end) if part.effect == "ratio" else end
        more = seeds_needed(*compared, threshold=threshold, paired=paired or part.other is None)
        if more is None:
            return None
        counts.append(more)
    return max(counts)


def _method(label: str) -> Method:
    """Splits a label into its algorithm, marked as such, and its options."""
    algo, _, variant = label.partition("@")
    return frozenset([f"{algo}@", *variant.split(",")])


def _follow_one_rule(samples: Sequence[Sample], part: Part) -> bool:
    """Whether runs may be compared: of one budget, and run times within one experiment."""
    first, *others = (sample.experiment for sample in samples)
    if part.arm.value == SECONDS:
        return all(other is first for other in others)
    return all(_budget(other.protocol) == _budget(first.protocol) for other in others)


def _budget(protocol: Protocol) -> tuple[int, int, int, bool]:
    return protocol.steps, protocol.eval_every, protocol.eval_episodes, protocol.reduced


def _rank(samples: Sequence[Sample], part: Part, claim: Claim) -> tuple[bool, bool, int]:
    """Sorts what can decide last, then runs of one experiment, then many seeds."""
    one = all(sample.experiment is samples[0].experiment for sample in samples)
    seeds = min(len(sample.values) for sample in samples)
    return not _objections(samples, part, claim), one, seeds


def _objections(samples: Sequence[Sample], part: Part, claim: Claim) -> list[str]:
    """Why these runs cannot decide a test."""
    reasons = [reason for sample in samples for reason in _unsuitable(sample.experiment, claim)]
    if part.arm.value == SECONDS:
        timed = _finished(samples[0].experiment, part.task, part.arms)
        if len(timed[["machine", "settings"]].drop_duplicates()) > 1:
            reasons.append("run times of several machines or settings")
    if _differ_in_precision(part) and not _ran_differently(samples, part):
        reasons.append("runs of both in one precision: a machine without bfloat16")
    return list(dict.fromkeys(reasons))


def _differ_in_precision(part: Part) -> bool:
    """Whether a test is about the option `precision`."""
    chosen = [{word for word in _method(arm.label) if "precision=" in word} for arm in part.arms]
    return any(options != chosen[0] for options in chosen)


def _ran_differently(samples: Sequence[Sample], part: Part) -> bool:
    """Whether no run of one sample shares its settings with one of another."""
    settings = [
        set(_finished(sample.experiment, part.task, [arm])["settings"])
        for sample, arm in zip(samples, part.arms, strict=False)
    ]
    return len(set().union(*settings)) == sum(map(len, settings))


def _finished(experiment: Experiment, task: str, arms: Sequence[Arm]) -> pd.DataFrame:
    """The finished runs of some methods on a task."""
    runs = experiment.runs
    methods = [_method(arm.label) for arm in arms]
    done = runs[(runs["task"] == task) & (runs["status"] == "done")]
    return done[done["label"].map(_method).isin(methods)]


def _unsuitable(experiment: Experiment, claim: Claim) -> list[str]:
    """Why the runs of an experiment cannot decide a claim."""
    protocol = experiment.protocol
    reasons = [f"{REDUCED} (experiment {experiment.name})"] if protocol.reduced else []
    if protocol.steps != claim.protocol.steps:
        reasons.append(f"{protocol.steps:,} of {claim.protocol.steps:,} steps")
    return reasons


def _paired(samples: Sequence[Sample]) -> bool:
    """Whether the arms have the same seeds in the same experiment."""
    first, *others = samples
    return all(
        other.experiment is first.experiment and set(other.values.index) == set(first.values.index)
        for other in others
    )

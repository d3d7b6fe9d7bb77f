"""A claim, its tests and their outcomes in words, for the terminal and for pages."""

from collections.abc import Sequence
from math import inf, isfinite

from analysis.data.provenance import shell, sweep_arguments
from analysis.drawing.tables import DASH
from analysis.papers.claim import Claim, ClaimTest
from analysis.papers.claim_tests import OPEN, REDUCED, REFUTED, SUPPORTED, Finding, Outcome
from analysis.papers.verdicts import environment

COMMAND = "python -m analysis.claims"
TEST_COLUMNS = ("task", "asked", "measured", "published", "verdict")
FEW_TASKS = 3
"""More are counted instead of named."""


def said(claim: Claim) -> str:
    """Return the claim, who makes it, and what to know about it."""
    return " ".join([claim.text, f"Source: {claim.source}.", claim.note]).rstrip()


def summary(finding: Finding) -> str:
    """Count the tests of a claim, and say what the open ones wait for, on one line."""
    total, needed = len(finding.outcomes), finding.claim.needed
    asked = "" if needed == total else f" ({needed} needed)"
    texts = [f"{finding.count(SUPPORTED)} of {total} hold{asked}, {finding.count(REFUTED)} fail"]
    waiting = [x for x in finding.outcomes if x.word == OPEN]
    reduced = sum(any(REDUCED in reason for reason in x.reasons) for x in waiting)
    if reduced:
        texts.append(f"{reduced} of a {REDUCED} only")
    if any(x.more is not None for x in waiting):
        more = max(x.more or 0 for x in waiting)
        texts.append(f"up to {more} more {'seed' if more == 1 else 'seeds'} would decide")
    if finding.missing:
        cells = "; ".join(
            f"{label} on {', '.join(tasks) if len(tasks) <= FEW_TASKS else f'{len(tasks)} tasks'}"
            for label, tasks in finding.missing.items()
        )
        texts.append(f"cells without enough runs: {cells}")
    return "; ".join(texts)


def describe_test(outcome: Outcome) -> tuple[str, str, str, str, str]:
    """Describe a test in the words of `TEST_COLUMNS`."""
    test = outcome.test
    reasons = f": {', '.join(outcome.reasons)}" if outcome.reasons else ""
    return test.task, _asked(test), _measured(outcome), _published(test), f"{outcome.word}{reasons}"


def sweep_commands(finding: Finding) -> list[str]:
    """Give the commands that run the cells that a claim lacks."""
    claim = finding.claim
    together: dict[tuple[str, ...], list[str]] = {}
    for label, tasks in finding.missing.items():
        together.setdefault(tuple(tasks), []).append(label)
    return [
        shell(arguments)
        for tasks, labels in together.items()
        for arguments in sweep_arguments(
            labels,
            tasks,
            range(claim.protocol.seeds),
            claim.protocol.name,
            claim.protocol.steps,
            "claims",
        )
    ]


def _asked(test: ClaimTest) -> str:
    """Return what a test asks, such as `diffsr − lvrep > 0.0 (last4)`."""
    values = {side.value for side in test.sides}
    names = [x.label if len(values) == 1 else f"{x.value} of {x.label}" for x in test.sides]
    subject = {"level": "", "difference": " − ", "ratio": " / "}[test.effect].join(names)
    ends = f"> {_amount(test, test.above)}"
    if test.below != inf:
        ends = f"from {_amount(test, test.above)} to {_amount(test, test.below)}"
    return f"{subject} {ends}" + (f" ({test.side.value})" if len(values) == 1 else "")


def _measured(outcome: Outcome) -> str:
    """Return the effect with its interval, the seeds of each method, and the experiments."""
    estimate, test = outcome.estimate, outcome.test
    if estimate is None:
        return DASH
    effect = _effect(test, estimate.point, [float(x.values.mean()) for x in outcome.samples])
    low, high = _amount(test, estimate.low), _amount(test, estimate.high)
    interval = f" [{low}, {high}]" if isfinite(estimate.high) else ""
    seeds = "/".join(str(len(x.values)) for x in outcome.samples)
    names = ", ".join(dict.fromkeys(x.experiment.name for x in outcome.samples))
    return f"{effect}{interval} (n={seeds}, {names})"


def _published(test: ClaimTest) -> str:
    """Return the effect that the source prints, and the environment if it is another one."""
    numbers = [side.published for side in test.sides if side.published]
    means = [number.mean for number in numbers if number.mean is not None]
    if len(means) < len(test.sides):
        return DASH
    point = means[0]
    if test.effect != "level":
        point = means[0] / means[1] if test.effect == "ratio" else means[0] - means[1]
    here = environment(test.task)
    others = dict.fromkeys(x.environment for x in numbers if x.environment != here)
    return "; ".join([_effect(test, point, means), *others])


def _effect(test: ClaimTest, point: float, means: Sequence[float]) -> str:
    """Write an effect; a difference also as a share of what it is to, if that is positive."""
    if test.effect != "difference":
        return _amount(test, point)
    share = f" ({100 * point / means[1]:+,.0f} %)" if means[1] > 0 else ""
    return f"{point:+,.1f}{share}"


def _amount(test: ClaimTest, value: float) -> str:
    """Write a number in the unit of a test."""
    if test.effect == "ratio":
        return f"{value:,.2f}×"
    return f"{value:,.1f}" if test.measure == "return" else f"{100 * value:.0f} %"

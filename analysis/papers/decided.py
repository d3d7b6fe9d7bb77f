"""The claims that the runs decide, as the short table of the README."""

from collections.abc import Sequence

from analysis.drawing.tables import markdown_text
from analysis.papers.claim_tests import OPEN, REDUCED, Finding, Outcome

COLUMNS = ("claim", "verdict", "effect, 95 % interval", "seeds")
COMMAND = "python -m analysis.claims"
FEW_TESTS = 3
"""Of a claim with more tests the table gives the range of the effects."""


def decided_claims(findings: Sequence[Finding]) -> str:
    """Write the decided claims as a Markdown table, and how many are open."""
    rows = [_row(finding) for finding in findings if finding.word != OPEN]
    waiting = [finding for finding in findings if finding.word == OPEN]
    grid = [COLUMNS, ["---"] * len(COLUMNS), *rows] if rows else []
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in grid]
    reduced = sum(_has_reduced_runs(finding) for finding in waiting)
    counts = (
        f"Decided: {len(rows)} of {len(findings)} claims. Open: {len(waiting)}, of which {reduced} "
        f"have runs of a {REDUCED} to look at, which decide nothing. `{COMMAND}` lists them all "
        "and gives the command that runs what each lacks."
    )
    return "\n".join([*lines, "", counts] if lines else [counts])


def _row(finding: Finding) -> tuple[str, str, str, str]:
    outcomes = [outcome for outcome in finding.outcomes if outcome.word != OPEN]
    seeds = [len(sample.values) for outcome in outcomes for sample in outcome.samples]
    claim = finding.claim
    link = f"[{claim.name}](docs/claims.md#{claim.name}): {claim.text}"
    count = str(min(seeds)) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return link, finding.word, _effect(outcomes), count


def _effect(outcomes: Sequence[Outcome]) -> str:
    estimates = [(x.test, x.estimate) for x in outcomes if x.estimate is not None]
    if len(estimates) <= FEW_TESTS:
        return "; ".join(
            f"{test.task} {_number(x.point, test.effect)} "
            f"[{_number(x.low, test.effect)}, {_number(x.high, test.effect)}]"
            for test, x in estimates
        )
    points = [x.point for _, x in estimates]
    low, high = (_number(x, estimates[0][0].effect) for x in (min(points), max(points)))
    return f"{low} to {high} on {len(estimates)} tasks"


def _number(value: float, effect: str) -> str:
    return f"{value:,.2f}×" if effect == "ratio" else f"{value:,.1f}"


def _has_reduced_runs(finding: Finding) -> bool:
    return any(REDUCED in reason for outcome in finding.outcomes for reason in outcome.reasons)

"""The claims of the papers against the runs: `python -m analysis.claims`."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path

from analysis.data.load import Experiment, ExperimentError, load
from analysis.data.provenance import shell, sweep_arguments
from analysis.docs import kept_experiments
from analysis.drawing.tables import DASH, markdown_text
from analysis.papers.claim_list import Claim, Part, claims
from analysis.papers.claim_tests import (
    MIN_SEEDS,
    OPEN,
    REDUCED,
    REFUTED,
    SUPPORTED,
    Finding,
    Outcome,
)
from analysis.papers.claim_tests import judge as judge  # The one name that others need.
from analysis.papers.verdicts import environment
from runners.cells.files import write_atomic

COMMAND = "python -m analysis.claims"
RULES = (
    f"Written by `{COMMAND} --out docs/claims.md`. A test is *supported* if the 95 % interval of "
    "its effect lies wholly inside the range that the claim asks for, *not supported* if it lies "
    f"wholly outside. It is open else, and with fewer than {MIN_SEEDS} seeds of a method; then it "
    "says how many more seeds of each would decide if mean and spread stay as they are. The "
    "interval is Student's over pairs where both methods have the same seeds in one experiment, "
    "and Welch's where they have not. Ratios are of geometric means; their interval is that of the "
    "difference of logarithms. Only finished runs with the claim's budget under a full protocol "
    "decide: what a reduced protocol gives is shown and decides nothing. A claim is supported when "
    "as many of its tests are as it needs (all, if nothing else is said), and not supported when "
    "so many fail that they cannot be. `last`, `last4` and `best` are the last evaluation, the "
    "mean of the last four and the best one of each run; `seconds` are per 1000 steps."
)
TEST_COLUMNS = ("task", "asked", "measured", "published", "verdict")
FEW_TASKS = 3
"""More are counted instead of named."""


class UnknownClaim(ValueError):
    """A claim that is not in the list; the message is one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Say which claims of the papers the runs support."
    )
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="show the tests of these claims")
    parser.add_argument(
        "--experiment",
        nargs="+",
        action="extend",
        type=Path,
        metavar="FOLDER",
        help="experiment folders to take the runs from (default: those kept in the repository)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write all tests as Markdown")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        chosen = choose(options.claims)
        if options.experiment:
            experiments = [load(folder) for folder in options.experiment]
        else:
            experiments = kept_experiments(options.results)
        findings = judge(chosen, experiments)
        if options.out:
            write_atomic(options.out, page(findings, experiments))
    except (ExperimentError, UnknownClaim, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = shutil.get_terminal_size((120, 24)).columns
    print(terminal(findings, width, detailed=bool(options.claims)))
    if options.out:
        print(f"\nWritten: {options.out}")
    return 0


def choose(names: Sequence[str]) -> list[Claim]:
    """Returns the claims with these names; all of them without a name.

    Raises:
        UnknownClaim: There is no claim of a name.
    """
    known = {claim.name: claim for claim in claims()}
    for name in names:
        if name not in known:
            raise UnknownClaim(f"unknown claim '{name}'; expected some of {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def terminal(findings: Sequence[Finding], width: int, *, detailed: bool) -> str:
    """Writes the claims as a plain table, and the tests of each if `detailed`.

    Args:
        findings: The claims.
        width: Columns of the terminal.
        detailed: Whether to show the tests too.
    """
    overview = [(x.claim.name, x.word, summary(x)) for x in findings]
    blocks = [_aligned(("claim", "verdict", "tests"), overview, width)]
    for finding in findings if detailed else ():
        blocks.append(textwrap.fill(said(finding.claim), width))
        blocks.append(_aligned(TEST_COLUMNS, [test_row(x) for x in finding.outcomes], width))
        blocks += _to_run(finding)
    return "\n\n".join(blocks)


def page(findings: Sequence[Finding], experiments: Sequence[Experiment]) -> str:
    """Writes the claims with all their tests as a Markdown page."""
    names = ", ".join(experiment.name for experiment in experiments)
    overview = [(f"[{x.claim.name}](#{x.claim.name})", x.word, summary(x)) for x in findings]
    blocks = ["# Claims", RULES, f"Experiments: {names}."]
    blocks.append(_markdown(("claim", "verdict", "tests"), overview))
    for finding in findings:
        blocks += [f"## {finding.claim.name}", f"**{finding.word}**: {said(finding.claim)}"]
        blocks.append(_markdown(TEST_COLUMNS, [test_row(x) for x in finding.outcomes]))
        blocks += _to_run(finding)
    return "\n\n".join(blocks) + "\n"


def said(claim: Claim) -> str:
    """The claim, who makes it, and what to know about it."""
    return " ".join([claim.text, f"Source: {claim.source}.", claim.note]).rstrip()


def summary(finding: Finding) -> str:
    """Counts the tests of a claim, and says what the open ones wait for, on one line."""
    total, needed = len(finding.outcomes), finding.claim.needed
    asked = "" if needed == total else f" ({needed} needed)"
    parts = [f"{finding.count(SUPPORTED)} of {total} hold{asked}, {finding.count(REFUTED)} fail"]
    waiting = [x for x in finding.outcomes if x.word == OPEN]
    reduced = sum(any(REDUCED in reason for reason in x.reasons) for x in waiting)
    if reduced:
        parts.append(f"{reduced} of a {REDUCED} only")
    if any(x.more is not None for x in waiting):
        more = max(x.more or 0 for x in waiting)
        parts.append(f"up to {more} more {'seed' if more == 1 else 'seeds'} would decide")
    if finding.missing:
        cells = "; ".join(
            f"{label} on {', '.join(tasks) if len(tasks) <= FEW_TASKS else f'{len(tasks)} tasks'}"
            for label, tasks in finding.missing.items()
        )
        parts.append(f"cells without enough runs: {cells}")
    return "; ".join(parts)


def test_row(outcome: Outcome) -> tuple[str, str, str, str, str]:
    """Describes a test in the words of `TEST_COLUMNS`."""
    part = outcome.part
    reasons = f": {', '.join(outcome.reasons)}" if outcome.reasons else ""
    return part.task, _asked(part), _measured(outcome), _published(part), f"{outcome.word}{reasons}"


def sweep_commands(finding: Finding) -> list[str]:
    """Gives the commands that run the cells that a claim lacks."""
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


def _to_run(finding: Finding) -> list[str]:
    commands = "\n".join(f"    {command}" for command in sweep_commands(finding))
    return [f"To run what is missing:\n\n{commands}"] if commands else []


def _asked(part: Part) -> str:
    """What a test asks, such as `diffsr − lvrep > 0.0 (last4)`."""
    values = {arm.value for arm in part.arms}
    names = [x.label if len(values) == 1 else f"{x.value} of {x.label}" for x in part.arms]
    subject = {"level": "", "difference": " − ", "ratio": " / "}[part.effect].join(names)
    ends = f"> {_amount(part, part.above)}"
    if part.below != inf:
        ends = f"from {_amount(part, part.above)} to {_amount(part, part.below)}"
    return f"{subject} {ends}" + (f" ({part.arm.value})" if len(values) == 1 else "")


def _measured(outcome: Outcome) -> str:
    """The effect with its interval, the seeds of each method, and the experiments."""
    estimate, part = outcome.estimate, outcome.part
    if estimate is None:
        return DASH
    effect = _effect(part, estimate.point, [float(x.values.mean()) for x in outcome.samples])
    low, high = _amount(part, estimate.low), _amount(part, estimate.high)
    interval = f" [{low}, {high}]" if isfinite(estimate.high) else ""
    seeds = "/".join(str(len(x.values)) for x in outcome.samples)
    names = ", ".join(dict.fromkeys(x.experiment.name for x in outcome.samples))
    return f"{effect}{interval} (n={seeds}, {names})"


def _published(part: Part) -> str:
    """The effect that the source prints, and the environment if it is another one."""
    numbers = [arm.published for arm in part.arms if arm.published]
    means = [number.mean for number in numbers if number.mean is not None]
    if len(means) < len(part.arms):
        return DASH
    point = means[0]
    if part.effect != "level":
        point = means[0] / means[1] if part.effect == "ratio" else means[0] - means[1]
    here = environment(part.task)
    others = dict.fromkeys(x.environment for x in numbers if x.environment != here)
    return "; ".join([_effect(part, point, means), *others])


def _effect(part: Part, point: float, means: Sequence[float]) -> str:
    """Writes an effect; a difference also as a share of what it is to, if that is positive."""
    if part.effect != "difference":
        return _amount(part, point)
    share = f" ({100 * point / means[1]:+,.0f} %)" if means[1] > 0 else ""
    return f"{point:+,.1f}{share}"


def _amount(part: Part, value: float) -> str:
    """Writes a number in the unit of a test."""
    if part.effect == "ratio":
        return f"{value:,.2f}×"
    return f"{value:,.1f}" if part.measure == "return" else f"{100 * value:.0f} %"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Writes a table in aligned columns; the last one is wrapped to the width."""
    widths = [max(len(row[i]) for row in [header, *rows]) + 2 for i in range(len(header) - 1)]
    lines = []
    for row in [header, *rows]:
        start = "".join(text.ljust(size) for text, size in zip(row[:-1], widths, strict=True))
        last = textwrap.wrap(row[-1], max(width - sum(widths), 30), break_on_hyphens=False)
        lines += [start + last[0], *(" " * sum(widths) + line for line in last[1:])]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    grid = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(markdown_text, row)) + " |" for row in grid)


if __name__ == "__main__":
    sys.exit(main())

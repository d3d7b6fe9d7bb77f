"""The claims of the papers against the runs: `python -m analysis.claims`."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from analysis.data.experiment import Experiment
from analysis.data.kept import kept_experiments
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.drawing.tables import markdown_text
from analysis.papers.claim_list import UnknownClaim, choose
from analysis.papers.claim_tests import MIN_SEEDS, Finding, decide
from analysis.papers.claim_texts import (
    COMMAND,
    TEST_COLUMNS,
    describe_test,
    said,
    summary,
    sweep_commands,
)
from runners.cells.errors import EXIT_USAGE
from runners.cells.files import write_atomic

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for bad input."""
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
        findings = decide(chosen, experiments)
        if options.out:
            write_atomic(options.out, page(findings, experiments))
    except (ExperimentError, UnknownClaim, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    width = shutil.get_terminal_size((120, 24)).columns
    print(terminal(findings, width, detailed=bool(options.claims)))
    if options.out:
        print(f"\nWritten: {options.out}")
    return 0


def terminal(findings: Sequence[Finding], width: int, *, detailed: bool) -> str:
    """Write the claims as a plain table, and the tests of each if `detailed`.

    Args:
        findings: the claims.
        width: columns of the terminal.
        detailed: whether to show the tests too.
    """
    overview = [(x.claim.name, x.word, summary(x)) for x in findings]
    blocks = [_aligned(("claim", "verdict", "tests"), overview, width)]
    for finding in findings if detailed else ():
        blocks.append(textwrap.fill(said(finding.claim), width))
        blocks.append(_aligned(TEST_COLUMNS, [describe_test(x) for x in finding.outcomes], width))
        blocks += _to_run(finding)
    return "\n\n".join(blocks)


def page(findings: Sequence[Finding], experiments: Sequence[Experiment]) -> str:
    """Write the claims with all their tests as a Markdown page."""
    names = ", ".join(experiment.name for experiment in experiments)
    overview = [(f"[{x.claim.name}](#{x.claim.name})", x.word, summary(x)) for x in findings]
    blocks = ["# Claims", RULES, f"Experiments: {names}."]
    blocks.append(_markdown(("claim", "verdict", "tests"), overview))
    for finding in findings:
        blocks += [f"## {finding.claim.name}", f"**{finding.word}**: {said(finding.claim)}"]
        blocks.append(_markdown(TEST_COLUMNS, [describe_test(x) for x in finding.outcomes]))
        blocks += _to_run(finding)
    return "\n\n".join(blocks) + "\n"


def _to_run(finding: Finding) -> list[str]:
    commands = "\n".join(f"    {command}" for command in sweep_commands(finding))
    return [f"To run what is missing:\n\n{commands}"] if commands else []


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Write a table in aligned columns; the last one is wrapped to the width."""
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

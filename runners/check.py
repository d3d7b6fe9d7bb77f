"""Apply the rules that any agent must meet, and print what holds.

    python -m runners.check --algo sac

The rules are in `runners.conformance`; the tests apply the same to every registered agent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import algos
from runners.cells.errors import EXIT_FAILED, EXIT_OK, UserError
from runners.cells.grid import split
from runners.conformance import RULES, Outcome, apply_rule
from runners.conformance.harness import narrow
from runners.conformance.rule import Algo
from runners.terminal.cli import Parser, run_main
from runners.terminal.options import both_forms
from runners.training.process import setup_process


def table(names: Sequence[str], outcomes: dict[tuple[str, str], Outcome]) -> list[str]:
    """Lay out rules as rows and agents as columns, in plain text."""
    first = max(map(len, RULES))
    rows = {"": list(names)}
    rows |= {rule: [outcomes[rule, name].verdict for name in names] for rule in RULES}
    widths = [max(6, len(name)) for name in names]
    return [
        "  ".join([f"{head:<{first}}", *map(str.rjust, cells, widths)])
        for head, cells in rows.items()
    ]


def subjects(agents: dict[str, Algo]) -> dict[str, Algo]:
    """Return one entry for each kind of observation of an agent, named after the first."""
    found: dict[str, Algo] = {}
    for name, agent in agents.items():
        for kind, version in algos.versions(agent).items():
            found[f"{name}@{kind}" if name in found else name] = narrow(version, kind)
    return found


def parser() -> Parser:
    """Build the parser of the command."""
    rules = "\n".join(f"  {name}: {function.__doc__}" for name, function in RULES.items())
    result = Parser("runners.check", f"Apply the rules that any agent must meet.\n\n{rules}")
    result.add_argument(
        *both_forms("algo"),
        default="all",
        metavar="NAMES",
        help="comma list of names or .py files, or all",
    )
    return result


def requested(text: str) -> dict[str, Algo]:
    """Return the agents of a comma list, or all, by name.

    Raises:
        UserError: the list is empty.
    """
    names = algos.list_algos() if text == "all" else split(text)
    if not names:
        raise UserError(f"--algo: name one of {', '.join(algos.list_algos())}, or all")
    return subjects({algos.name_of(name): algos.load(name) for name in names})


def main(argv: Sequence[str] | None = None) -> int:
    """Apply all rules to the agents that were asked for; print the table and the reasons."""
    agents = requested(parser().parse_args(argv).algo)
    setup_process()
    start = time.monotonic()
    outcomes = {(r, name): apply_rule(r, agent) for name, agent in agents.items() for r in RULES}
    print("\n".join(table(list(agents), outcomes)))
    for (rule, name), outcome in outcomes.items():
        if outcome.reason:
            print(f"\n{outcome.verdict} {name}, {rule}: {outcome.reason}")
    failed = sum(outcome.verdict == "FAIL" for outcome in outcomes.values())
    print(f"\n{len(outcomes)} rules applied, {failed} broken, {time.monotonic() - start:.0f} s")
    return EXIT_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    run_main(main)

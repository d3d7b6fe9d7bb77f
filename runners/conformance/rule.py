"""What a rule is, and what comes out when one is applied to an agent.

A rule takes an agent class. It returns if all is well, raises `Broken` with what is wrong
and what to do, or `NotApplicable` with the reason.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from algos.base.agent import Agent

Algo = type[Agent]
Rule = Callable[[Algo], None]

RULES: dict[str, Rule] = {}


class Broken(Exception):
    """An agent breaks a rule; the text says what is wrong and what to do."""


class NotApplicable(Exception):
    """A rule says nothing about an agent; the text is the reason."""


def rule(function: Rule) -> Rule:
    """Add `function` to `RULES` under its name, in order of definition."""
    RULES[function.__name__] = function
    return function


def require(condition: bool, text: str) -> None:
    """Raise `Broken` with `text` unless the condition holds."""
    if not condition:
        raise Broken(text)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an agent fares under a rule: `pass`, `FAIL` or `skip`, and why."""

    verdict: str
    reason: str = ""


def apply_rule(name: str, algo: Algo) -> Outcome:
    """Apply the rule `name` to an agent; a crash is a failure like any other.

    An agent may declare `rule_exceptions`, a mapping from rules that cannot hold for it to
    the reason; they are skipped.
    """
    declared: Mapping[str, str] = algo.rule_exceptions
    if name in declared:
        return Outcome("skip", f"declared: {declared[name]}")
    try:
        RULES[name](algo)
    except NotApplicable as reason:
        return Outcome("skip", str(reason))
    except Broken as failure:
        return Outcome("FAIL", str(failure))
    except Exception as error:
        return Outcome("FAIL", f"crashed with {type(error).__name__}: {error} ({_place(error)})")
    return Outcome("pass")


def _place(error: BaseException) -> str:
    """Name the last line of this suite on the way to the error, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own[-1:], frames[-1])]
    return " -> ".join(dict.fromkeys(places))

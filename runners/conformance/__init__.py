"""The contract of an agent: rules, each one function, by subject.

`RULES` has them all. A new rule is a function under `@rule` in one of the
modules imported here: its docstring is what it demands, its failure says what to do.
"""

from runners.conformance import declarations, interface, learning, randomness
from runners.conformance.rule import RULES, Outcome, apply_rule

__all__ = ["RULES", "Outcome", "apply_rule", "declarations", "interface", "learning", "randomness"]

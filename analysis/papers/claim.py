"""What a claim is: one or more tests, each of an effect on one task.

A test asks whether its effect lies in a range: the difference of two methods above 0, the ratio of
two run times above 3, a success rate above 0.9.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from analysis.data.experiment import Measure
from analysis.data.published import Published
from runners.cells.protocols import Protocol

SECONDS = "seconds"
"""The value of a run that is not a statistic of its evaluations: its run time."""

Effect = Literal["level", "difference", "ratio"]


@dataclass(frozen=True)
class Side:
    """One side of a test: the runs of a method, and the value of each.

    Attributes:
        label: `<algo>[@<variant>]`, in any order of the variant's options.
        value: a name in `RUN_STATISTICS`, or `SECONDS` per 1000 environment steps.
        published: the number that the source prints for it, if one was read.
    """

    label: str
    value: str
    published: Published | None = None


@dataclass(frozen=True, kw_only=True)
class ClaimTest:
    """One test of a claim.

    Attributes:
        task: task id.
        side: the runs that the test is about.
        other: the runs that they are compared with; None for a `level`.
        effect: the mean of the side (`level`), side minus other (`difference`), or side over other
            (`ratio`, of geometric means).
        above: the effect has to be above this, in the unit of the measure or as a ratio.
        below: the effect has to be below this.
        measure: what an evaluation measures.
    """

    task: str
    side: Side
    other: Side | None = None
    effect: Effect = "difference"
    above: float = 0.0
    below: float = inf
    measure: Measure = "return"

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of the test, one or two."""
        return (self.side,) if self.other is None else (self.side, self.other)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that a paper, or this suite, says.

    Attributes:
        name: name on the command line.
        text: the claim in one sentence.
        source: who says so and where, and what was read.
        protocol: the protocol whose cells can decide it, over as many steps as the source has.
        tests: the tests.
        needed: how many of them must hold.
        note: what a reader should know before taking a verdict for the paper's.
    """

    name: str
    text: str
    source: str
    protocol: Protocol
    tests: tuple[ClaimTest, ...]
    needed: int
    note: str = ""

"""Protocols: named sets of tasks, seeds, steps and evaluations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from runners.cells.errors import UserError, nearest, positive


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What every cell of an experiment has in common.

    Attributes:
        name: name on the command line.
        tasks: task ids that a sweep runs by default.
        seeds: number of seeds that a sweep runs by default.
        steps: simulator control steps of a run, random steps included.
        random_steps: steps of uniform random actions, the same for every agent.
        eval_every: steps between evaluations; the last step is always evaluated.
        eval_episodes: episodes of one evaluation, without exploration.
        log_every: steps between rows of train.csv.
        reported: statistics that tables show, the main one first: `last` evaluation,
            `last4` (mean of the last four), `best` during training.
        preset: preset of every agent that has one by this name.
        reduced: cheaper than any paper's; every output says so.
        note: where the numbers come from.
    """

    name: str
    tasks: tuple[str, ...]
    seeds: int
    steps: int
    random_steps: int
    eval_every: int
    eval_episodes: int
    log_every: int
    reported: tuple[str, ...]
    preset: str = ""
    reduced: bool = False
    note: str = ""

    def with_steps(self, steps: int | None) -> Protocol:
        """Return the same protocol over another budget; a smaller one is reduced."""
        if steps is None or steps == self.steps:
            return self
        steps = positive("steps", steps)
        return dataclasses.replace(self, steps=steps, reduced=self.reduced or steps < self.steps)

    def manifest(self) -> dict[str, Any]:
        """Return what decides the result of a cell, and how its result is reported."""
        facts = dataclasses.asdict(self)
        del facts["tasks"], facts["seeds"]
        return facts | {"reported": ",".join(self.reported)}


QUICK = Protocol(
    name="quick",
    tasks=("mbbl/Pendulum", "mbbl/InvertedPendulum", "mbbl/HalfCheetah"),
    seeds=2,
    steps=3_000,
    random_steps=500,
    eval_every=500,
    eval_episodes=3,
    log_every=250,
    reported=("last",),
    preset="quick",
    reduced=True,
    note="a few minutes on two cores: small networks, few samples, few steps",
)

DIFFSR = Protocol(
    name="diffsr",
    tasks=(
        "mbbl/HalfCheetah",
        "mbbl/Reacher",
        "mbbl/Humanoid-ET",
        "mbbl/Pendulum",
        "mbbl/InvertedPendulum",
        "mbbl/Ant-ET",
        "mbbl/Hopper-ET",
        "mbbl/SlimHumanoid-ET",
        "mbbl/CartPole",
        "mbbl/Walker2D-ET",
    ),
    seeds=4,
    steps=200_000,
    random_steps=25_000,
    eval_every=5_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last4", "last"),
    note="Diff-SR, Table 1: arXiv 2406.16121, appendix C.2; random steps as in its code",
)

MBBL_LOCOMOTION = ("mbbl/HalfCheetah", "mbbl/Ant-ET", "mbbl/Hopper-ET", "mbbl/Walker2D-ET")
"""Those of its tasks on which Diff-SR and LV-Rep compare methods in their texts."""

QVPO = Protocol(
    name="qvpo",
    tasks=(
        "gym/Ant-v5",
        "gym/HalfCheetah-v5",
        "gym/Hopper-v5",
        "gym/Humanoid-v5",
        "gym/Walker2d-v5",
    ),
    seeds=5,
    steps=1_000_000,
    random_steps=10_000,
    eval_every=10_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last", "best"),
    note="QVPO, Table 1: arXiv 2405.16173, run on v5 tasks where the paper used v3",
)

GYM_200K = Protocol(
    name="gym-200k",
    tasks=(
        "gym/Ant-v4",
        "gym/HalfCheetah-v4",
        "gym/Hopper-v4",
        "gym/Humanoid-v4",
        "gym/Walker2d-v4",
    ),
    seeds=4,
    steps=200_000,
    random_steps=5_000,
    eval_every=5_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last4", "last"),
    note="gym v4 beside the values of nine methods at 100,000 and 200,000 steps that "
    "DAVIAN-Robotics/SimbaV2 86899c2 keeps; random steps as in its code",
)

METAWORLD = Protocol(
    name="metaworld",
    tasks=(
        "metaworld/bin-picking",
        "metaworld/box-close",
        "metaworld/button-press",
        "metaworld/door-open",
        "metaworld/drawer-close",
        "metaworld/hammer",
        "metaworld/stick-push",
        "metaworld/sweep",
    ),
    seeds=5,
    steps=1_000_000,
    random_steps=4_000,
    eval_every=10_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last", "best"),
    note="Diff-SR, Meta-World figure: arXiv 2406.16121, 84x84 pixels; run on Meta-World v3",
)

POMDP = Protocol(
    name="pomdp",
    tasks=(
        "pomdp/HalfCheetah",
        "pomdp/Humanoid",
        "pomdp/Walker",
        "pomdp/Ant",
        "pomdp/Hopper",
        "pomdp/Pendulum",
    ),
    seeds=4,
    steps=200_000,
    random_steps=25_000,
    eval_every=5_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last4", "last"),
    note="Diff-SR, Table 3: arXiv 2406.16121, appendix E; evaluated as its Table 1",
)

POMDP_LOCOMOTION = ("pomdp/HalfCheetah", "pomdp/Walker", "pomdp/Ant", "pomdp/Hopper")
"""Those of its tasks on which Diff-SR's text compares it with PolyGRAD."""

DMC = Protocol(
    name="dmc",
    tasks=(
        "dmc/cheetah-run",
        "dmc/walker-run",
        "dmc/hopper-hop",
        "dmc/humanoid-run",
    ),
    seeds=4,
    steps=200_000,
    random_steps=10_000,
    eval_every=5_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last4", "last"),
    note="DMControl from states, 200,000 steps: the tasks of LV-Rep's table, arXiv 2212.08765",
)

PIXELS = Protocol(
    name="pixels",
    tasks=(
        "dmc/cartpole-balance@pixels",
        "dmc/cheetah-run@pixels",
        "dmc/walker-walk@pixels",
        "dmc/reacher-easy@pixels",
    ),
    seeds=5,
    steps=1_000_000,
    random_steps=4_000,
    eval_every=10_000,
    eval_episodes=10,
    log_every=1_000,
    reported=("last", "best"),
    note="DMControl from 84x84 pixels: DrQ-v2, arXiv 2107.09645, action repeat 2",
)

QUICK_PIXELS = Protocol(
    name="quick-pixels",
    tasks=("dmc/cartpole-balance@pixels+size=64", "metaworld/drawer-close@size=64"),
    seeds=1,
    steps=3_000,
    random_steps=1_000,
    eval_every=1_000,
    eval_episodes=2,
    log_every=250,
    reported=("last",),
    preset="quick",
    reduced=True,
    note="some minutes on two cores: 64x64 pixels, small networks, few steps",
)

TOY = Protocol(
    name="toy",
    tasks=("toy/bandit",),
    seeds=3,
    steps=1_000,
    random_steps=64,
    eval_every=100,
    eval_episodes=100,
    log_every=100,
    reported=("last",),
    preset="quick",
    reduced=True,
    note="QVPO, figure 2: arXiv 2405.16173, exploration on a bandit; small networks, few steps",
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        *(QUICK, DIFFSR, QVPO, GYM_200K, POMDP, METAWORLD),
        *(DMC, PIXELS, QUICK_PIXELS, TOY),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        UserError: one line with the valid names.
    """
    if name not in PROTOCOLS:
        valid = ", ".join(PROTOCOLS)
        raise UserError(
            f"unknown protocol {name!r}: valid protocols are {valid}{nearest(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]

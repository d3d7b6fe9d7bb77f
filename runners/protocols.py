"""Protocols: named sets of tasks, seeds, steps and evaluation rules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from algos.config import nearest
from runners.cli import UserError, positive


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
        """The same protocol over another budget; a smaller one is reduced."""
        if steps is None or steps == self.steps:
            return self
        steps = positive("steps", steps)
        return dataclasses.replace(self, steps=steps, reduced=self.reduced or steps < self.steps)

    def manifest(self) -> dict[str, Any]:
        """What decides the result of a cell, and how its result is reported."""
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

PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, DIFFSR, QVPO)}


def protocol(name: str) -> Protocol:
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

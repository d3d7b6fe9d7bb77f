"""What one environment step of an agent is made of: its period and its matrix products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import algos
from algos.base.agent import Agent
from algos.base.offpolicy import OffPolicyAgent
from algos.parts.config import build_config
from algos.parts.types import Spaces
from runners.bench.timing import ACTION_DIM, OBS_DIM
from runners.training.estimate import random_transition

STATES = Spaces((OBS_DIM,), ACTION_DIM)
STORED = 5_000  # transitions in memory before updates are timed
LEARNINGS = 4  # updates that learn, at first, to find the period after which work repeats
MOST_LEARNINGS = 64
SAME_WORK = 0.05  # of the larger; PolyGRAD's line search tries now more, now fewer steps


class NoModules(ModuleTracker):
    """Attributes all work to the whole: nothing is hooked."""

    def __enter__(self) -> NoModules:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


class Products(FlopCounterMode):
    """Counts the work of matrix products, all in one sum.

    Torch's counter also finds out which module did them, by hooks on what a module reads; and
    `torch.autograd.grad` with respect to a leaf that is hooked is an error (QSM does that).
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = NoModules()


def ready_agent(
    algo: str, device: torch.device, stored: int = STORED, spaces: Spaces = STATES, preset: str = ""
) -> Agent:
    """Return an agent, of default options or a preset, with a filled memory, ready to learn."""
    kind = algos.versions(algos.load(algo))["pixels" if spaces.pixels else "state"]
    warm = {"random_steps": 0} if hasattr(kind.Config, "random_steps") else {}
    options = {**(kind.presets[preset] if preset else {}), **warm}
    agent = kind(spaces, build_config(kind.Config, options), [0], device)
    rng = np.random.default_rng(0)
    for k in range(1, stored + 1):  # with ends: some agents learn from whole episodes only
        agent.observe(random_transition(agent.spaces, rng, terminated=k % 100 == 0))
    return agent


def learning_step(agent: Agent) -> Callable[[], bool]:
    """Return a call that stores a step and learns from it; it is True if anything was learned."""
    transition = random_transition(agent.spaces, np.random.default_rng(1))

    def call() -> bool:
        agent.observe(transition)
        return bool(agent.update())

    return call


def shortest_period(work: Sequence[int]) -> int:
    """Entries after which `work` repeats to `SAME_WORK`, seen at least twice; 0 if it does not."""

    def repeats(period: int) -> bool:
        pairs = zip(work[period:], work, strict=False)
        return all(math.isclose(a, b, rel_tol=SAME_WORK) for a, b in pairs)

    return next((p for p in range(1, len(work) // 2 + 1) if repeats(p)), 0)


def learning_period(agent: Agent) -> tuple[int, float]:
    """Environment steps after which the agent's work repeats, and GFLOP of one step.

    The work of a step is that of its matrix products. It may be nothing but once in a
    rollout, or more at every second update. The agent is driven until a period is seen
    twice; work that follows none within `MOST_LEARNINGS` updates is averaged over them all.
    """
    step, work, learned, wanted = learning_step(agent), [0], 0, LEARNINGS
    period = 0
    if isinstance(agent, OffPolicyAgent):
        agent.capture = False  # what a graph replays cannot be counted
    with Products() as counter:
        while not period and wanted <= MOST_LEARNINGS:
            while learned < wanted:
                learned += step()
                work.append(counter.get_total_flops())
            flops = [after - before for before, after in itertools.pairwise(work)]
            period = shortest_period(flops)
            wanted *= 2
    if isinstance(agent, OffPolicyAgent):
        agent.capture = True
    period = period or len(flops)
    return period, sum(flops[-period:]) / period / 1e9

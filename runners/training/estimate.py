"""How long a sweep will take and how much memory: measured, not guessed.

For every distinct (algorithm, options, task) a short probe builds the agent, fills its
memory with some random transitions and times a few actions and steps of learning on this
machine.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

import envs
from algos.base.agent import Agent
from algos.parts.blocks import Block, Rows
from algos.parts.types import Array, Spaces, Transition
from runners.cells.cell import Cell
from runners.terminal.machine import frame_bytes
from runners.training.loop import make_agent
from runners.training.replica import make_env

PROBE_SECONDS = 1.0
PATIENCE = 10  # times the probe's seconds, for agents that learn once in thousands of steps
# Steps stored beyond the random ones: some agents begin part of their learning later.
LEAD = 2_000


@dataclass(frozen=True)
class Estimate:
    """Cost of one cell.

    Attributes:
        seconds: wall time of the run on one core.
        memory: bytes of the worker at its end: the process with its libraries, and twice the
            agent's state, since writing a checkpoint makes a copy; of frames only a part.
        disk: bytes of its checkpoints at their largest: two while one is written, frames once.
    """

    seconds: float
    memory: int
    disk: int


def _time(action: Callable[[], object], seconds: float, most: int = 200) -> float:
    """Median seconds of one call, after two to warm up."""
    action()
    action()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < most):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def random_transition(
    spaces: Spaces, rng: np.random.Generator, terminated: bool = False
) -> Transition:
    """Return a step of one replica through unrelated observations."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal((1, *shape), np.float32)

    def see() -> Array:
        if spaces.pixels:
            return rng.integers(0, 256, (1, *spaces.obs_shape), np.uint8)
        return normal(*spaces.obs_shape)

    obs, next_obs = see(), see()
    action, ends = np.tanh(normal(spaces.action_dim)), np.array([terminated])
    return Transition(obs, action, normal(), next_obs, ends, np.zeros(1, bool))


def _feed(agent: Agent, steps: int) -> None:
    """Store random transitions, with an end now and then."""
    rng = np.random.default_rng(0)
    for i in range(steps):
        agent.observe(random_transition(agent.spaces, rng, terminated=i % 20 == 19))


def time_learning(agent: Agent, seconds: float) -> tuple[float, int]:
    """Time `observe` and `update` for about `seconds`.

    An agent may learn once in many steps, and `update` is then quick in between. So what is
    timed begins and ends with an update that learned.

    Returns:
        Seconds of one environment step, and how many steps were stored in all.
    """
    transition = random_transition(agent.spaces, np.random.default_rng(0))
    start = time.perf_counter()

    def learn_once() -> int:
        """Take steps until an update learned, or until patience ends."""
        steps = 0
        while True:
            agent.observe(transition)
            steps += 1
            learned = bool(agent.update())
            if learned or time.perf_counter() > start + PATIENCE * seconds:
                return steps

    before = learn_once() + learn_once()  # to warm up, from wherever the agent stands
    begin, timed, learnings = time.perf_counter(), 0, 0
    while learnings < 3 or time.perf_counter() < begin + seconds:
        timed += learn_once()
        learnings += 1
    return (time.perf_counter() - begin) / timed, before + timed


def tensor_bytes(node: object) -> int:
    """Bytes of all tensors and blocks in a nested state."""
    if isinstance(node, Block):
        return node.nbytes
    if isinstance(node, torch.Tensor):
        return node.numel() * node.element_size()
    if isinstance(node, dict):
        return sum(tensor_bytes(value) for value in node.values())
    if isinstance(node, list | tuple):
        return sum(tensor_bytes(value) for value in node)
    return 0


def peak_bytes() -> int:
    """Return the most main memory that this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def process_bytes() -> int:
    """Bytes of this process before the first probe: the interpreter and its libraries."""
    return peak_bytes()


def estimate(cell: Cell, device: str) -> Estimate:
    """Probe one cell on this machine."""
    base = process_bytes()
    protocol, task = cell.protocol, envs.task(cell.task)
    env = make_env(cell.task, seed=0)
    env.reset()
    agent = make_agent((cell,), device)
    empty = tensor_bytes(agent.state_dict())
    agent_steps = protocol.steps // task.action_repeat
    warm = min(int(cell.config.get("random_steps", 0)), agent_steps)
    probe = 300
    _feed(agent, probe)
    per_transition = (tensor_bytes(agent.state_dict()) - empty) / probe
    # The probe must learn, so the random steps are behind it before it is timed.
    stored = max(probe, min(warm + LEAD, agent_steps), warm + 1)
    _feed(agent, stored - probe)
    obs: Array = np.zeros((1, 1, *task.obs_shape), agent.obs_dtype)
    batch: Array = np.zeros((1, protocol.eval_episodes, *task.obs_shape), agent.obs_dtype)
    action = np.zeros(task.action_dim)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    env_time = _time(step, 0.1)
    act = _time(lambda: agent.act(obs, True), 0.2)
    evaluate = _time(lambda: agent.act(batch, False), 0.3)
    update, further = time_learning(agent, PROBE_SECONDS)
    env.close()
    learning = max(0, agent_steps - warm)
    evaluations = np.ceil(protocol.steps / protocol.eval_every)
    per_evaluation = task.max_episode_steps * (evaluate + protocol.eval_episodes * env_time)
    seconds = agent_steps * env_time + learning * (act + update) + evaluations * per_evaluation
    capacity = getattr(agent.config, "replay_capacity", 0)
    kept = per_transition * min(stored + further, capacity)
    networks = tensor_bytes(agent.state_dict()) - kept  # with its optimisers, which begin late
    frames = frame_bytes(cell)
    vectors = int(per_transition * min(agent_steps, capacity)) - frames
    in_memory = vectors + min(frames, 16 * Rows.READ_AHEAD)
    # Two checkpoints are kept while the next is written; what is in blocks is there once.
    disk = 3 * int(networks) + vectors + frames
    return Estimate(float(seconds), base + 2 * int(networks) + in_memory, disk)


def estimates(cells: Sequence[Cell], device: str) -> list[Estimate]:
    """Estimates of all cells; cells that differ only in their seed are probed once."""
    known: dict[tuple[str, str], Estimate] = {}
    for cell in cells:
        key = (cell.task, cell.label)
        if key not in known:
            known[key] = estimate(cell, device)
    return [known[cell.task, cell.label] for cell in cells]

"""Small agents in a made-up world, which the rules drive and compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from algos.base.agent import Agent
from algos.parts.config import AgentConfig, build_config
from algos.parts.types import Array, Spaces, Transition
from runners.conformance.rule import Algo, require
from runners.storage import checkpoint

KINDS = {"state": (5,), "pixels": (9, 20, 20)}
ACTION_DIM = 3
SMALL = {
    "random_steps": 20,
    "batch_size": 16,
    "replay_capacity": 32,
    "rollout_steps": 32,
    "imagined_batch": 32,
}
UPDATES = 15
MAX_STEPS = 2_000  # a small agent that has not learned by then never will


def small_config(algo: Algo, options: Mapping[str, Any]) -> AgentConfig:
    """Return the `quick` preset with a short warm-up and a small memory, then `options`."""
    names = {field.name for field in dataclasses.fields(algo.Config)}
    values = {**algo.presets.get("quick", {}), **SMALL, **options}
    return build_config(algo.Config, {k: v for k, v in values.items() if k in names})


def build(algo: Algo, seeds: Sequence[int] = (0,), **options: Any) -> Agent:
    """Build a small agent on the CPU; options that it does not have are left out."""
    kinds = [kind for kind in algo.observation_kinds if kind in KINDS]
    shape = KINDS[kinds[0]] if kinds else KINDS["state"]
    return algo(Spaces(shape, ACTION_DIM), small_config(algo, options), list(seeds))


def observation(keys: Sequence[int], t: int, shape: tuple[int, ...]) -> Array:
    """Return what replicas with these keys see at step t, `[R, *shape]`, whatever they do."""
    streams = [np.random.default_rng([key, t]) for key in keys]
    if len(shape) == 3:
        return np.stack([rng.integers(0, 256, shape, np.uint8) for rng in streams])
    return np.stack([rng.standard_normal(shape, np.float32) for rng in streams])


def shifted(obs: Array, offset: float) -> Array:
    """Return `obs` moved by `offset`; pixels stay within their range."""
    if obs.dtype == np.uint8:
        return (obs.astype(np.float32) + np.float32(offset)).clip(0, 255).astype(np.uint8)
    return obs + np.float32(offset)


def narrow(algo: Algo, kind: str) -> Algo:
    """Return the same agent as if it took one kind of observation only."""
    facts = {"observation_kinds": (kind,), "__module__": algo.__module__}
    return type(algo.__name__, (algo,), facts)


@dataclasses.dataclass
class Step:
    """What an agent gave in one step: actions `[R, A]`, and metrics as they came and copied."""

    action: Array
    raw: dict[str, Any]
    metrics: dict[str, Array]


class Probe:
    """An agent and its place in the made-up world.

    Args:
        algo: the agent class.
        seeds: one per replica.
        keys: which data each replica sees; by default all see that of key 0.
        ending: flag that is set at every third step: "terminated", "truncated", "neither",
            or "both" to alternate.
        options: options of the agent beyond the small sizes.
    """

    def __init__(
        self,
        algo: Algo,
        seeds: Sequence[int] = (0,),
        keys: Sequence[int] | None = None,
        ending: str = "both",
        **options: Any,
    ) -> None:
        self.agent = build(algo, seeds, **options)
        self.keys = keys if keys is not None else [0] * len(seeds)
        self.ending, self.t = ending, 0

    def see(self, count: int = 1) -> Array:
        """Return observations `[R, count, *obs_shape]`; with count > 1 those to come as well."""
        shape = self.agent.spaces.obs_shape
        views = [observation(self.keys, self.t + n, shape) for n in range(count)]
        return np.stack(views, axis=1)

    def transition(self, obs: Array, action: Array) -> Transition:
        """Return what follows on `action` `[R, A]`; no array is shared with the caller."""
        replicas = len(self.keys)
        kinds = ["terminated", "truncated"] if self.ending == "both" else [self.ending]
        flag = kinds[self.t // 3 % len(kinds)] if self.t % 3 == 2 else "neither"
        next_obs = observation(self.keys, self.t + 1, self.agent.spaces.obs_shape)
        scale = 1.0 / 64.0 if next_obs.dtype == np.uint8 else 1.0
        reward = scale * next_obs.reshape(replicas, -1)[:, 0] + 0.1 * action.sum(-1)
        return Transition(
            obs=obs.copy(),
            action=action.copy(),
            reward=reward.astype(np.float32),
            next_obs=next_obs,
            terminated=np.full(replicas, flag == "terminated"),
            truncated=np.full(replicas, flag == "truncated"),
        )

    def step(self, spoil: bool = False, evaluations: int = 0) -> Step:
        """Act, observe, update.

        Args:
            spoil: overwrite every array that was handed over, right after its use.
            evaluations: calls of `act` without exploration in between.
        """
        obs = self.see()
        first = obs[:, 0].copy()
        action = self.agent.act(obs, explore=True)[:, 0].copy()
        transition = self.transition(first, action)
        self.agent.observe(transition)
        if spoil:
            for array in (obs, *vars(transition).values()):
                array[...] = True if array.dtype == bool else 7.0
        for n in range(evaluations):
            self.agent.act(self.see(count=1 + n), explore=False)
        raw = self.agent.update()
        self.t += 1
        return Step(action, raw, {name: as_array(value) for name, value in raw.items()})

    def train(self, updates: int = UPDATES, **options: Any) -> list[Step]:
        """Take steps until `updates` of them have given metrics; `options` are those of `step`."""
        steps: list[Step] = []
        while sum(bool(step.metrics) for step in steps) < updates:
            require(
                len(steps) < MAX_STEPS,
                f"update() gave no metrics in {MAX_STEPS} steps of a small agent: learn from "
                f"step random_steps on, and return what was learned as a dict of tensors",
            )
            steps.append(self.step(**options))
        return steps


def as_array(value: Any) -> Array:
    """Copy a metric into an array."""
    return torch.as_tensor(value).detach().cpu().float().numpy().copy()


def flat(steps: list[Step]) -> list[tuple[str, Array]]:
    """List all numbers of a training run in order, each with the words for a failure."""
    found: list[tuple[str, Array]] = []
    for n, step in enumerate(steps):
        found.append((f"the action of step {n}", step.action))
        found += [(f"metric {name!r} of step {n}", step.metrics[name]) for name in step.metrics]
    return found


def difference(one: list[Step], other: list[Step]) -> str:
    """Name the first number that is not bitwise the same; an empty string if there is none."""
    pairs = zip(flat(one), flat(other), strict=False)
    for (name, a), (other_name, b) in pairs:
        if name != other_name or a.tobytes() != b.tobytes():
            return f"{name} ({a.ravel()[:3]} and {b.ravel()[:3]})"
    return "" if len(one) == len(other) else "the number of steps before learning starts"


def require_same(one: list[Step], other: list[Step], text: str) -> None:
    """Raise `Broken` with `text` and the place, unless both runs are bitwise the same."""
    found = difference(one, other)
    require(not found, f"{text}; first difference: {found}")


def several(algo: Algo) -> bool:
    """Return whether the agent takes more than one replica."""
    return algo.max_replicas is None or algo.max_replicas > 1


def round_trip(state: dict[str, Any]) -> Any:
    """Return `state` as it comes back from a checkpoint on disk."""
    with TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), 0, state)
        loaded = checkpoint.load(Path(folder))
        assert loaded is not None
        return loaded.state

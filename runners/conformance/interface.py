"""What an agent takes and gives: actions, arrays and metrics."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import numpy as np
import torch

from algos.base.agent import Agent
from algos.parts.types import Array
from runners.conformance.harness import (
    ACTION_DIM,
    SMALL,
    UPDATES,
    Probe,
    build,
    observation,
    require_same,
    several,
    shifted,
)
from runners.conformance.rule import Algo, require, rule


@rule
def actions_are_valid(algo: Algo) -> None:
    """Actions are finite float32 `[R, N, A]` in [-1, 1], for extreme observations too."""
    for seeds in [(0,), (0, 1)] if several(algo) else [(0,)]:
        probe = Probe(algo, seeds)
        _check_actions(probe)
        probe.train(2)
        _check_actions(probe)


def _check_actions(probe: Probe) -> None:
    for explore, count, offset in product((True, False), (1, 3), (0.0, 1e3, -1e3)):
        _check_action(probe.agent, shifted(probe.see(count), offset), explore)


def _check_action(agent: Agent, obs: Array, explore: bool) -> None:
    call = f"act(obs {list(obs.shape)}, explore={explore}) at mean observation {obs.mean():.0f}"
    action = agent.act(obs, explore)
    require(isinstance(action, np.ndarray), f"{call} gave {type(action)}: return a numpy array")
    require(action.dtype == np.float32, f"{call} gave {action.dtype}: return float32")
    expected = (*obs.shape[:2], ACTION_DIM)
    require(
        action.shape == expected,
        f"{call} gave shape {list(action.shape)}: return [R, N, action_dim], {list(expected)}",
    )
    require(bool(np.isfinite(action).all()), f"{call} gave NaN or infinity: bound what can grow")
    largest = float(np.abs(action).max())
    require(largest <= 1.0, f"{call} gave {largest:.3g}: clamp actions to [-1, 1]")


@rule
def acts_before_learning(algo: Algo) -> None:
    """An agent that has learned nothing acts; its random steps are spread over the box."""
    fresh = build(algo, random_steps=0)
    obs = observation([0], 0, fresh.spaces.obs_shape)[:, None]
    for explore in (True, False):
        _check_action(fresh, obs, explore)
    warming = build(algo)
    # A policy that listens to observations this large chooses the same corner every time.
    obs = obs if algo.on_policy else shifted(obs, 1e3)
    draws = np.stack([warming.act(obs, explore=True)[0, 0] for _ in range(100)])
    require(
        float(draws.std(0).min()) > 0.3 and (algo.on_policy or float(draws.max(0).min()) > 0.5),
        f"actions of the first {SMALL['random_steps']} steps hardly vary (standard deviation "
        f"{draws.std(0)}): take uniform actions over [-1, 1] for random_steps steps",
    )


@rule
def arrays_are_not_kept(algo: Algo) -> None:
    """`act` and `observe` neither change the arrays that they are given nor keep them."""
    probe = Probe(algo)
    obs = probe.see()
    transition = probe.transition(obs[:, 0], probe.agent.act(obs.copy(), True)[:, 0])
    kept = obs.copy(), copy.deepcopy(transition)
    probe.agent.act(obs, True)
    probe.agent.act(obs, False)
    require(np.array_equal(obs, kept[0]), "act() wrote into obs: work on a copy")
    probe.agent.observe(transition)
    for name, array in vars(transition).items():
        same = np.array_equal(array, getattr(kept[1], name))
        require(same, f"observe() wrote into transition.{name}: work on a copy")
    require_same(
        Probe(algo).train(),
        Probe(algo).train(spoil=True),
        "overwriting the arrays after act() and observe() changed what was learned: the agent "
        "keeps a reference (torch.from_numpy shares memory); store copies",
    )


@rule
def metrics_are_tensors(algo: Algo) -> None:
    """Every metric is a finite tensor `[R]` on the agent's device, without a graph."""
    seeds = (0, 1) if several(algo) else (0,)
    probe = Probe(algo, seeds)
    for step in probe.train():
        for name, value in step.raw.items():
            _check_metric(name, value, len(seeds), probe.agent.device)


def _check_metric(name: str, value: Any, replicas: int, device: torch.device) -> None:
    require(
        isinstance(value, torch.Tensor),
        f"metric {name!r} is a {type(value).__name__}: return the tensor itself; .item() and "
        f"float() make the update wait for the device",
    )
    require(
        value.shape == (replicas,),
        f"metric {name!r} has shape {list(value.shape)}: return one number per replica, "
        f"[{replicas}]; average over the batch, never over replicas",
    )
    require(value.device.type == device.type, f"metric {name!r} is on {value.device}, not {device}")
    require(not value.requires_grad, f"metric {name!r} holds its graph in memory: detach() it")
    finite = bool(torch.isfinite(value).all())
    require(
        finite, f"metric {name!r} is {value.tolist()}: no loss may diverge in {UPDATES} updates"
    )

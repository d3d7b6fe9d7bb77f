"""A seed of a group fails alone: what becomes of its numbers never reaches the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import algos
import tests.helpers.pixels as pixel_helpers
import tests.helpers.updates as algo_helpers
from algos.parts.types import Transition
from tests.helpers.selection import mostly_extended

pytestmark = pytest.mark.usefixtures("bfloat16_products")

HURT, OTHERS = 1, [0, 2]
STEPS_BEFORE, STEPS_AFTER = 12, 10
# What the helpers leave at full size or late; those an agent does not have are left out.
SMALL: dict[str, Any] = {
    "precision": "bfloat16",  # the default, and kernels of their own
    "rollout_steps": 4,
    "pretrain_updates": 0,
    "vae_pretrain_updates": 0,
    "latent_dim": 8,
    "psi_hidden": 16,
    "zeta_hidden": 16,
    "zeta_blocks": 1,
    "noise_levels": 20,
}

AGENTS = [
    (name, kind)
    for name in algos.list_algos()
    for kind, cls in algos.versions(algos.load(name)).items()
    if cls.max_replicas is None
]


def build(name: str, kind: str, device: str = "cpu") -> Any:
    cls = algos.versions(algos.load(name))[kind]
    own = {key: value for key, value in SMALL.items() if key in cls.Config.__dataclass_fields__}
    helpers = pixel_helpers if kind == "pixels" else algo_helpers
    small = helpers.make_small(cls, (0, 1, 2), **own)
    return cls(small.spaces, small.config, (0, 1, 2), device)


def observation(agent: Any, step: int, broken: bool) -> np.ndarray:
    """What the replicas see at `step`, `[3, *obs_shape]`; it does not depend on their actions."""
    rng, shape = np.random.default_rng(step), (3, *agent.spaces.obs_shape)
    if agent.spaces.pixels:
        return rng.integers(0, 256, shape, np.uint8)
    obs = rng.normal(size=shape).astype(np.float32)
    if broken:
        obs[HURT] = np.nan
    return obs


def drive(agent: Any, first: int, steps: int, broken: bool = False) -> np.ndarray:
    """Act, observe and learn from step `first` on; actions `[steps, 3, A]`.

    Args:
        agent: with three replicas.
        first: number of the first step.
        steps: how many.
        broken: whether the memory of the hurt replica takes in what is not finite too.
    """
    actions = []
    for t in range(first, first + steps):
        obs, next_obs = (observation(agent, k, broken) for k in (t, t + 1))
        action = agent.act(obs[:, None], explore=True)[:, 0]
        actions.append(action)
        # The runner puts a step of no action in the place of one that cannot be taken.
        taken = action if broken else np.where(np.isfinite(action), action, np.float32(0.0))
        ends = np.full(3, t % 4 == 3)
        reward = taken.sum(-1)
        agent.observe(Transition(obs, taken, reward, next_obs, np.zeros_like(ends), ends))
        agent.update()
    return np.stack(actions)


def modules(agent: Any) -> dict[str, nn.Module]:
    return {k: part for k, part in agent.components().items() if isinstance(part, nn.Module)}


def weights_of_others(agent: Any) -> list[torch.Tensor]:
    """All weights of the replicas that are well."""
    weights = [p for part in modules(agent).values() for p in part.parameters()]
    return [p.detach().unflatten(0, (3, -1))[OTHERS] for p in weights]


@torch.no_grad()
def hurt(agent: Any) -> None:
    for part in modules(agent).values():
        for p in part.parameters():
            p.unflatten(0, (3, -1))[HURT] = torch.nan


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("broken", [False, True], ids=["stands still", "broken data"])
@pytest.mark.parametrize(
    ("name", "kind"), mostly_extended(AGENTS, quick=[("sac", "state"), ("sac", "pixels")])
)
def test_a_replica_that_is_not_finite_leaves_the_others_alone(
    name: str, kind: str, broken: bool
) -> None:
    agents = build(name, kind), build(name, kind)
    for agent in agents:
        drive(agent, 0, STEPS_BEFORE)
    well, ill = agents
    before = weights_of_others(well)
    hurt(ill)
    expected = drive(well, STEPS_BEFORE, STEPS_AFTER)
    actions = drive(ill, STEPS_BEFORE, STEPS_AFTER, broken)
    assert not np.isfinite(actions[:, HURT]).any()
    np.testing.assert_array_equal(actions[:, OTHERS], expected[:, OTHERS])
    after = weights_of_others(well)
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for a, b in zip(after, weights_of_others(ill), strict=True):
        assert torch.equal(a, b)
    obs = observation(well, 99, broken=False)[:, None]
    chosen, judged = (agent.act(obs, explore=False)[OTHERS] for agent in agents)
    np.testing.assert_array_equal(chosen, judged)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("name", "kind"), AGENTS)
def test_on_cuda_a_replica_that_is_not_finite_leaves_the_others_finite(
    name: str, kind: str
) -> None:
    agent = build(name, kind, "cuda")
    drive(agent, 0, STEPS_BEFORE)
    hurt(agent)
    # Some gradients of convolutions add up in no fixed order there, so no bits are compared.
    actions = drive(agent, STEPS_BEFORE, STEPS_AFTER, broken=True)
    assert not np.isfinite(actions[:, HURT]).any()
    assert np.isfinite(actions[:, OTHERS]).all()
    assert all(bool(torch.isfinite(w).all()) for w in weights_of_others(agent))

"""Does it learn: every agent against the known optimum of a linear-quadratic task."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import algos
from tests.helpers.selection import mostly_extended
from tests.helpers.updates import STATES, LinearQuadratic, make

# What any agent gets; an option that it does not have is left out.
COMMON: dict[str, Any] = {
    "discount": LinearQuadratic.DISCOUNT,
    "precision": "float32",
    "random_steps": 200,
    "replay_capacity": 10_000,
    "batch_size": 64,
    "hidden": 64,
    "learning_rate": 1e-3,
    "tau": 0.01,
}
# Steps, and options beyond `COMMON`, with which a method learns fast on a task this small.
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "diffsr": (
        3000,
        {
            "psi_hidden": 64,
            "zeta_hidden": 64,
            "feature_dim": 64,
            "feature_updates": 1,
            "feature_learning_rate": 3e-4,
            "noise_std": 0.2,  # states spread over about 1, where the code's tasks have 3
            "initial_temperature": 0.02,
            "random_steps": 1000,
            "batch_size": 128,
            "tau": 0.02,
        },
    ),
    "dipo": (
        2500,
        {
            "random_steps": 1000,
            "batch_size": 128,
            "tau": 0.02,
            "critic_learning_rate": 1e-3,
            "actor_learning_rate": 2e-3,
            "action_gradient_steps": 3,
            "diffusion_steps": 6,
        },
    ),
    "dpmd": (
        2000,
        {
            # alpha is a schedule over 150,000 updates: start where it ends.
            "initial_alpha": 1.0,
            "diffusion_steps": 5,
            "particles": 16,
            "random_steps": 500,
            "learning_rate": 3e-3,
            "tau": 0.05,
        },
    ),
    "lvrep": (
        3500,
        {
            "random_steps": 1000,
            "feature_updates": 1,
            "feature_dim": 32,
            "feature_hidden": 64,
            "feature_learning_rate": 1e-3,
            "feature_tau": 0.02,
            # States end up within 0.2 of the origin: a larger weight would blur them.
            "kl_weight": 0.1,
            "noises": 4,
            "tau": 0.05,
            "initial_temperature": 0.03,
        },
    ),
    "polygrad": (
        1750,
        {
            "random_steps": 600,
            "batch_size": 128,
            "tau": 0.05,
            "horizon": 5,
            "diffusion_steps": 32,
            "denoiser_hidden": 128,
            "denoiser_layers": 2,
            "denoiser_learning_rate": 1e-3,
            "ema_start": 200,
            # The model first: 400 updates of it before the policy learns from what it imagines.
            "agent_start": 200,
            "update_every": 2,
            "imagined_batch": 128,
            "guidance_scale": 0.01,
            "guidance_learning_rate": 3e-2,
            "initial_std": 0.5,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 3e-3,
            "policy_change": 0.02,
        },
    ),
    "ppo": (3000, {"rollout_steps": 250, "batch_size": 50, "normalise_observations": False}),
    "qsm": (
        3000,
        {
            # Curvature of the values over actions is near 1; see `docs/algorithms/qsm.md`.
            "q_scale": 2.2,
            "random_steps": 1000,
            "batch_size": 128,
            "actor_learning_rate": 3e-3,
            "critic_learning_rate": 3e-3,
            "decay_steps": 2000,
            "exploration_noise": 0.5,
            "tau": 0.02,
        },
    ),
    "qvpo": (
        2000,
        {
            "diffusion_steps": 8,
            "train_samples": 16,
            "entropy_weight": 0.0,
            "behavior_samples": 1,
            "target_samples": 1,
            "hidden": 32,
            "random_steps": 300,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 2e-3,
            "tau": 0.02,
        },
    ),
    "sac": (2500, {"initial_temperature": 0.1}),
    "td3": (
        2500,
        {
            "random_steps": 1000,
            "learning_rate": 2e-3,
            "tau": 0.05,
            "exploration_noise": 1.0,
            "target_noise": 0.1,
        },
    ),
}


@pytest.mark.parametrize("name", mostly_extended(STATES, quick=["ppo", "sac", "td3"]))
def test_it_learns(name: str) -> None:
    """At least 95 % of the way from doing nothing to the Riccati optimum.

    Measure: discounted return over 50 steps from 200 random starts, the same noise for
    every policy, actions as in evaluation. The optimum is not limited to [-1, 1]. A new
    method without settings of its own has to come half of the way.
    """
    cls = algos.load(name)
    steps, own = SETTINGS.get(name, (2500, {}))
    names = {field.name for field in dataclasses.fields(cls.Config)}
    common = {key: value for key, value in COMMON.items() if key in names}
    agent = make(cls, (0,), 2, 1, **(common | own))
    assert LinearQuadratic.fraction_of_optimum(agent) < 0.5  # the measure sees no skill here
    LinearQuadratic.train(agent, steps)
    assert LinearQuadratic.fraction_of_optimum(agent) > (0.95 if name in SETTINGS else 0.5)

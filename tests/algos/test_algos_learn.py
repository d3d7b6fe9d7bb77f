"""Does it learn: every agent against the known optimum of a linear-quadratic task."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from algo_helpers import LinearQuadratic, make

import algos

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
# Steps, and options beyond `COMMON`. An algorithm without an entry gets 2,500 steps.
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "sac": (2500, {"initial_temperature": 0.1}),
}


@pytest.mark.parametrize("name", algos.list_algos())
def test_it_learns(name: str) -> None:
    """At least 95 % of the way from doing nothing to the Riccati optimum.

    Measure: discounted return over 50 steps from 200 random starts, the same noise for
    every policy, actions as in evaluation. The optimum is not limited to [-1, 1].
    """
    cls = algos.load(name)
    steps, own = SETTINGS.get(name, (2500, {}))
    names = {field.name for field in dataclasses.fields(cls.Config)}
    common = {key: value for key, value in COMMON.items() if key in names}
    agent = make(cls, (0,), 2, 1, **(common | own))
    assert LinearQuadratic.fraction_of_optimum(agent) < 0.5  # the measure sees no skill here
    LinearQuadratic.train(agent, steps)
    assert LinearQuadratic.fraction_of_optimum(agent) > 0.95

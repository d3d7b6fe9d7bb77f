"""Gaussian policies against torch.distributions."""

from __future__ import annotations

import torch

from algos.parts.gaussian_policy import NormGaussianPolicy
from algos.parts.rng import ReplicaRng
from tests.helpers.polygrad import CPU


def test_policy_is_a_plain_gaussian_of_the_given_std() -> None:
    rng = ReplicaRng([0], CPU)
    policy = NormGaussianPolicy(rng, [3, 8, 8, 2], 1.0)
    torch.testing.assert_close(policy.std(), torch.ones(1, 1, 2))
    with torch.no_grad():
        policy.raw_std.fill_(-50.0)
    torch.testing.assert_close(policy.std(), torch.full((1, 1, 2), 0.1))
    normal = torch.distributions.Normal(torch.zeros(2), policy.std()[0, 0])
    torch.testing.assert_close(policy.entropy()[0], normal.entropy().sum())

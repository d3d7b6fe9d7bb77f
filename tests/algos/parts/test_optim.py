"""Optimiser steps, gradient clipping and target networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from algos.parts.layers import MLP
from algos.parts.optim import clip_grad_norm_, clone_frozen, fit_critic, polyak_, step
from algos.parts.rng import ReplicaRng

CPU = torch.device("cpu")


def rng(*seeds: int) -> ReplicaRng:
    return ReplicaRng(seeds or (0,), CPU)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_polyak_and_target_networks() -> None:
    online = MLP(rng(), 1, [3, 4, 2])
    target = clone_frozen(online)
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
    polyak_(target, online, 0.25)
    for old, new, live in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * live)
        torch.testing.assert_close(live, old + 1.0)


def test_gradient_norms_are_clipped_per_replica_as_torch_does() -> None:
    net = MLP(rng(0, 1, 2), 2, [3, 8, 1])
    for i, p in enumerate(net.parameters()):
        scale = torch.tensor([0.01, 1.0, 30.0]).repeat_interleave(2).view(-1, 1, 1)
        p.grad = numbers(*p.shape, seed=i) * scale
    expected, norms = [], []
    for r in range(3):
        alone = [nn.Parameter(p[2 * r : 2 * r + 2].detach().clone()) for p in net.parameters()]
        for q, p in zip(alone, net.parameters(), strict=True):
            q.grad = p.grad[2 * r : 2 * r + 2].clone()
        norms.append(nn.utils.clip_grad_norm_(alone, 2.0))
        expected.append([q.grad for q in alone])
    returned = clip_grad_norm_(net.parameters(), 3, 2.0)
    torch.testing.assert_close(returned, torch.stack(norms))
    for r in range(3):
        for p, grad in zip(net.parameters(), expected[r], strict=True):
            torch.testing.assert_close(p.grad[2 * r : 2 * r + 2], grad)
    assert norms[0] < 2.0 < norms[1] < norms[2]  # the small one was left alone


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_fit_critic_is_a_step_on_the_squared_error_summed_over_heads(limit: float) -> None:
    ours, theirs = (MLP(rng(0, 1), 3, [4, 8, 1]) for _ in range(2))
    x, target = numbers(2, 5, 4), numbers(2, 5, seed=1)
    q = ours(x).view(2, 3, 5)
    metrics = fit_critic(torch.optim.SGD(ours.parameters(), 0.1), q, target, 2, limit)
    loss = sum((theirs(x).view(2, 3, 5)[:, k] - target).square().mean(-1) for k in range(3))
    step(torch.optim.SGD(theirs.parameters(), 0.1), loss.sum(), 2, limit)
    for p, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, expected)
    torch.testing.assert_close(metrics["critic_loss"], loss.detach())
    torch.testing.assert_close(metrics["q"], q.detach().mean((1, 2)))
    assert not any(value.requires_grad for value in metrics.values())


def test_step_forgets_old_gradients() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.full((1,), 1e6)
    step(torch.optim.SGD([parameter], lr=0.1), parameter.sum())
    assert parameter.item() == pytest.approx(-0.1)

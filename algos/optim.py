"""Steps that every agent takes: losses per replica, optimisers, target networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def per_replica_mean(values: Tensor) -> Tensor:
    """Mean over all but the leading axis: losses average within a replica, `[R]`."""
    return values.flatten(1).mean(-1)


def adam(parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8) -> torch.optim.Adam:
    """Adam with one fused kernel over all parameters."""
    return torch.optim.Adam(parameters, lr=lr, eps=eps, fused=True)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step on `loss`, a sum over replicas of losses that share nothing."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def clone_frozen(module: nn.Module) -> Any:
    """A copy of `module` whose parameters never get gradients: a target network."""
    twin = copy.deepcopy(module)
    return twin.requires_grad_(False)


@torch.no_grad()
def polyak_(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Set target <- (1 - rate) target + rate online, in one call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[nn.Parameter], replicas: int, limit: float) -> Tensor:
    """Scale each replica's gradient to a global norm of at most `limit`.

    Returns:
        The norms before scaling, `[R]`.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    squares = [g.reshape(replicas, -1).square().sum(-1) for g in grads]
    norm = torch.stack(squares).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp_(max=1.0)
    for g in grads:
        copies = g.shape[0] // replicas
        g.mul_(scale.repeat_interleave(copies).view(-1, *[1] * (g.dim() - 1)))
    return norm

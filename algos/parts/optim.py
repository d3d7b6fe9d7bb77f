"""Compute temporal-difference losses, step optimisers, move target networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.layers import repeat_replicas
from algos.parts.replay import Batch


def bellman_target(batch: Batch, value: Tensor, discount: float) -> Tensor:
    """R + discount (1 - end) V(s'), `[R, B]`, for next values `value` `[R, B]`."""
    return batch.reward[..., 0] + discount * batch.not_terminal[..., 0] * value


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of `q` `[R, heads, B]` to `target` `[R, B]`, summed over heads, `[R]`."""
    return F.mse_loss(q, target[:, None].expand_as(q), reduction="none").mean(-1).sum(-1)


def per_replica_mean(values: Tensor) -> Tensor:
    """Mean over all but the leading axis: losses average within a replica, `[R]`."""
    return values.flatten(1).mean(-1)


def adam(parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8) -> torch.optim.Adam:
    """Adam with one fused kernel over all parameters.

    On a GPU it may be captured: the fused kernel counts its steps there, so this changes nothing.
    """
    weights = list(parameters)
    return torch.optim.Adam(weights, lr=lr, eps=eps, fused=True, capturable=weights[0].is_cuda)


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """Make AdamW with one fused kernel and torch's weight decay of 0.01."""
    return torch.optim.AdamW(parameters, lr=lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give `optimizer` another learning rate, on a GPU in a tensor that a captured step reads."""
    for group in optimizer.param_groups:
        device, old = group["params"][0].device, group["lr"]
        if isinstance(old, Tensor) and old.device == device:
            old.fill_(rate)
        elif device.type == "cpu":
            group["lr"] = rate
        else:  # the first time, and what a checkpoint brings lies on the host
            group["lr"] = torch.tensor(rate, device=device)


def step(
    optimizer: torch.optim.Optimizer, loss: Tensor, replicas: int = 1, max_norm: float = 0.0
) -> None:
    """One optimiser step on `loss`, a sum over replicas of losses that share nothing.

    Args:
        optimizer: of the weights to move.
        loss: a scalar.
        replicas: R, the leading axis of every weight; read when `max_norm` is set.
        max_norm: largest global gradient norm of each replica; 0 does not clip.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if max_norm > 0.0:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        clip_grad_norm_(weights, replicas, max_norm)
    optimizer.step()


def fit_critic(
    optimizer: torch.optim.Optimizer,
    q: Tensor,
    target: Tensor,
    replicas: int = 1,
    max_norm: float = 0.0,
) -> dict[str, Tensor]:
    """Take one optimiser step of the critic towards its Bellman target.

    Args:
        optimizer: of the critic's weights.
        q: values `[R, heads, B]` with their graph.
        target: what every head regresses onto, `[R, B]`, a constant.
        replicas: see `step`.
        max_norm: see `step`.

    Returns:
        The metrics `critic_loss` and `q`, `[R]` each.
    """
    loss = critic_loss(q, target)
    step(optimizer, loss.sum(), replicas, max_norm)
    return {"critic_loss": loss.detach(), "q": per_replica_mean(q.detach())}


def clone_frozen(module: nn.Module) -> Any:
    """Return a copy of `module` whose parameters never get gradients: a target network."""
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
        g.mul_(repeat_replicas(scale, copies).view(-1, *[1] * (g.dim() - 1)))
    return norm

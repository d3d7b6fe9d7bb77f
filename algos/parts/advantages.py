"""Generalised advantages (Schulman et al. 2015, arXiv 1506.02438), and their standard form.

A_t = delta_t + carry_t A_{t+1}, from the last step backwards. PPO's rollouts and PolyGRAD's
windows round this in different ways (a fused product and sum here, two roundings there), which
results that are kept depend on; so each has its own loop.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sum(delta: Tensor, carry: Tensor) -> Tensor:
    """Return A_t = delta_t + carry_t A_{t+1} with A_T = 0, from `[R, T]` each."""
    total, sums = torch.zeros_like(delta[:, 0]), []
    pairs = zip(delta.unbind(1), carry.unbind(1), strict=True)
    for now, share in reversed(list(pairs)):
        total = torch.addcmul(now, share, total)
        sums.append(total)
    return torch.stack(sums[::-1], dim=1)


def lambda_advantages(
    reward: Tensor, terminal: Tensor, value: Tensor, discount: float, decay: float
) -> Tensor:
    """Return advantages A_h `[R, B, H - 1]` of windows; all tensors are `[R, B, H]`."""
    go_on = discount * (1.0 - terminal[..., :-1])
    delta = reward[..., :-1] + go_on * value[..., 1:] - value[..., :-1]
    advantage = delta.clone()
    for h in reversed(range(delta.shape[-1] - 1)):
        advantage[..., h] += decay * go_on[..., h] * advantage[..., h + 1]
    return advantage


def standardise(values: Tensor) -> Tensor:
    """Return `values` `[R, B]` with mean 0 and sample standard deviation 1 in every replica."""
    return (values - values.mean(-1, keepdim=True)) / (values.std(-1, keepdim=True) + 1e-8)


def standardise_kept(values: Tensor, keep: Tensor) -> Tensor:
    """Return `standardise` of `[R, N]` with the moments of those where `keep` is 1."""
    count = keep.sum(-1, keepdim=True).clamp(min=2.0)
    gap = values - (values * keep).sum(-1, keepdim=True) / count
    variance = (gap.square() * keep).sum(-1, keepdim=True) / (count - 1.0)
    return gap / (variance.sqrt() + 1e-8)


def survival(terminal: Tensor, at_end: bool) -> Tensor:
    """Return w_h `[R, B, H - 1]` of windows: 1 up to the step that ends the task, then 0.

    Args:
        terminal: 1 where a step ended the task, `[R, B, H]`.
        at_end: whether the step that ends the task has 1 too; in PolyGRAD's code it has 0.
    """
    alive = (1.0 - terminal[..., :-1]).cumprod(-1)
    if at_end:
        return torch.cat([torch.ones_like(alive[..., :1]), alive[..., :-1]], dim=-1)
    return alive

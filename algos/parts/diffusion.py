"""Compute the noise schedules and the reverse process that the diffusion methods share.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239); equation
numbers below are that paper's. A schedule is a float64 array of T betas; index t runs
from 0 (almost clean) to T - 1 (almost noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betainc
from torch import Tensor

from algos.parts.rng import ReplicaRng

Betas = NDArray[np.float64]


def cosine_betas(steps: int, offset: float = 0.008) -> Betas:
    """Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 17), betas clipped to [0, 0.999]."""
    grid = np.arange(steps + 1) / steps
    alpha_bar = np.cos((grid + offset) / (1.0 + offset) * math.pi / 2.0) ** 2
    return np.clip(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.0, 0.999)


def linear_betas(steps: int, first: float = 1e-4, last: float = 2e-2) -> Betas:
    """Betas that rise linearly (Ho et al. 2020, section 4)."""
    return np.linspace(first, last, steps)


def vp_betas(steps: int, low: float = 0.1, high: float = 10.0) -> Betas:
    """Discretise the variance-preserving process of Xiao et al. 2022 (arXiv 2112.07804)."""
    t = np.arange(1, steps + 1)
    alpha = np.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2)
    return 1.0 - alpha


def tau_betas(steps: int, tau: float) -> Betas:
    """Return betas of G = (g(u) - g(1)) / (g(0) - g(1)), g(u) = cos(pi u / 2)^(2 tau), up to 0.999.

    Chen 2023, "On the Importance of Noise Scheduling for Diffusion Models" (arXiv
    2301.10972). A small tau keeps the signal until the last few steps.
    """
    g = np.cos(0.5 * math.pi * np.arange(steps + 1) / steps) ** (2.0 * tau)
    signal = (g - g[-1]) / (g[0] - g[-1])
    return np.clip(1.0 - signal[1:] / signal[:-1], 0.0, 0.999)


SCHEDULES: dict[str, Callable[[int], Betas]] = {
    "cosine": cosine_betas,
    "linear": linear_betas,
    "vp": vp_betas,
}


def beta_cdf_alpha_bar(steps: int, a: float = 0.3, b: float = 0.1) -> NDArray[np.float64]:
    """Cumulative signal levels of the released Diff-SR code, `[steps]`.

    One minus the distribution function of Beta(a, b) on a regular grid, with its two
    end points moved onto their neighbours (haotiansun14/rl-rep, `utils/util.py`). The
    values lie in [0.391, 0.967] for 1000 steps: the process never reaches pure noise.
    """
    raw = 1.0 - betainc(a, b, np.arange(steps) / (steps - 1))
    return np.clip(raw, raw[-2], raw[1])


def sinusoids(steps: int, dim: int) -> Tensor:
    """Embedding of step numbers, `[steps, dim]`: sines, then cosines, of falling frequency.

    The frequencies run from 1 to 1/10,000 (Vaswani et al. 2017, section 3.5, as in DDPM's code).
    """
    half = dim // 2
    frequency = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(1, half - 1)))
    angle = torch.arange(steps)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Diffusion:
    """Forward and reverse process of a schedule, with float32 tables on a device.

    Args:
        betas: one beta per step.
        device: where the tables live.
    """

    def __init__(self, betas: Betas, device: torch.device) -> None:
        alpha = 1.0 - betas
        bar = np.cumprod(alpha)
        before = np.append(1.0, bar[:-1])
        variance = betas * (1.0 - before) / (1.0 - bar)

        def table(values: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self.steps = len(betas)
        self.betas = betas.tolist()
        self.signal = table(np.sqrt(bar))
        self.noise = table(np.sqrt(1.0 - bar))
        # x0 = x / sqrt(bar) - sqrt(1/bar - 1) eps
        self.inverse_signal = (1.0 / np.sqrt(bar)).tolist()
        self.noise_to_signal = np.sqrt(1.0 / bar - 1.0).tolist()
        # Posterior mean and std (eq. 7); the floor keeps the logarithm of released code finite.
        self.mean_x0 = (betas * np.sqrt(before) / (1.0 - bar)).tolist()
        self.mean_x = ((1.0 - before) * np.sqrt(alpha) / (1.0 - bar)).tolist()
        self.std = np.sqrt(np.maximum(variance, 1e-20)).tolist()

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noisy sample sqrt(bar_t) x0 + sqrt(1 - bar_t) noise (eq. 4).

        Args:
            x0: `[..., A]`.
            t: `[...]` integers in 0..T-1.
            noise: standard normal, like `x0`.
        """
        return self.signal[t].unsqueeze(-1) * x0 + self.noise[t].unsqueeze(-1) * noise

    def reverse_step(self, x: Tensor, epsilon: Tensor, t: int, noise: Tensor | None) -> Tensor:
        """One reverse step with the clean estimate clamped to [-1, 1] (eq. 6-7).

        Args:
            x: sample at step t.
            epsilon: predicted noise, like `x`.
            t: the step; nothing is added at t = 0.
            noise: standard normal like `x`, or None for the mean.
        """
        clean = x.mul(self.inverse_signal[t]).sub_(epsilon, alpha=self.noise_to_signal[t])
        mean = clean.clamp_(-1.0, 1.0).mul_(self.mean_x0[t]).add_(x, alpha=self.mean_x[t])
        if t == 0 or noise is None:
            return mean
        return mean.add_(noise, alpha=self.std[t])

    def shown_levels(self, shown: int) -> list[int]:
        """Return noise levels that `draw_by_score` shows: from the number of levels to 0."""
        return [round(self.steps * (shown - 1 - n) / (shown - 1)) for n in range(shown)]

    def draw_by_score(
        self,
        x: Tensor,
        score: Callable[[Tensor, Tensor], Tensor],
        shown: int,
        bound: float,
        rng: ReplicaRng,
    ) -> Tensor:
        """Draw by the ancestral chain of Ho et al. 2020 (Algorithm 2), in terms of the score.

        It begins at standard normal noise, whatever the last level is.

        Args:
            x: that noise, `[R, N, n]`.
            score: of `[R, N, n]` at levels `[R, N]`.
            shown: samples to return, at least 2; see `shown_levels`.
            bound: of every coordinate on the way.
            rng: source of all further noise.

        Returns:
            Samples spread evenly over the chain, both ends included, `[R, N, shown, n]`.
        """
        wanted = self.shown_levels(shown)
        found = [x] * wanted.count(self.steps)
        for k in reversed(range(self.steps)):
            level = torch.full(x.shape[:2], k, device=x.device)
            x = (x + self.betas[k] * score(x, level)) / math.sqrt(1.0 - self.betas[k])
            if k > 0:
                x = x + self.std[k] * rng.normal(*x.shape[1:])
            x = x.clamp_(-bound, bound)
            found += [x] * wanted.count(k)
        return torch.stack(found, dim=2)

"""The denoiser of PolyGRAD: a network that cleans all steps of a window at once.

A window is H rows (obs, reward, terminal, action) in normalised units. The denoiser reads all of
it and estimates the clean (obs, reward, terminal); the actions are given. Layers are those of
marc-rigter/polygrad-world-models 62d0054, `models/mlp_denoiser_network.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.diffusion import Diffusion
from algos.parts.layers import Layers, StackedLinear, StackedNorm
from algos.parts.optim import per_replica_mean
from algos.parts.rng import ReplicaRng


class TrajectoryDenoiser(nn.Module):
    """f(x_t, sqrt(abar_t) a, t): the clean (obs, reward, terminal) rows of a window.

    With d the numbers of a window and e = max(d, `MIN_EMBED`):

        z = Linear(e, hidden)( Linear(d, e)(window) + time(t) )
        z = z + Linear(hidden, hidden)( relu( LayerNorm(z) ) )        `layers` times
        out = Linear(hidden, H (S + 2))( relu( LayerNorm(z) ) )

    time(t) is Linear . SiLU . Linear of t and of sine and cosine at 8 random frequencies.
    Sums along the layers are float32; only the products are of `dtype`.
    """

    FREQUENCIES = 8
    MIN_EMBED = 128  # smallest width of the window's embedding, else its size (code)
    frequency: Tensor

    def __init__(
        self,
        rng: ReplicaRng,
        horizon: int,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        layers: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.shape = (horizon, obs_dim + 2)
        window = horizon * (obs_dim + 2 + action_dim)
        embed = max(window, self.MIN_EMBED)
        self.register_buffer("frequency", rng.normal(1, self.FREQUENCIES))
        self.time = Layers(
            [
                StackedLinear(rng, 1, 1 + 2 * self.FREQUENCIES, embed),
                StackedLinear(rng, 1, embed, embed),
            ]
        )
        self.project = StackedLinear(rng, 1, window, embed)
        self.enter = StackedLinear(rng, 1, embed, hidden)
        self.norms = Layers(StackedNorm(rng, hidden) for _ in range(layers + 1))
        self.blocks = Layers(StackedLinear(rng, 1, hidden, hidden) for _ in range(layers))
        self.out = StackedLinear(rng, 1, hidden, horizon * (obs_dim + 2))
        self.dtype = dtype

    def embed(self, t: Tensor) -> Tensor:
        """Return the time embedding `[R, B, e]` of steps `t` `[R, B]`."""
        t = t.unsqueeze(-1).float()
        angle = 2.0 * math.pi * t * self.frequency
        h = F.silu(self.time[0](torch.cat([t, angle.sin(), angle.cos()], dim=-1), self.dtype))
        return self.time[1](h, self.dtype)

    def forward(self, window: Tensor, t: Tensor) -> Tensor:
        """Return the clean rows of windows at some steps, `[R, B, H, S + 2]`.

        Args:
            window: `[R, B, H, S + 2 + A]`.
            t: `[R, B]`.
        """
        z = self.project(window.flatten(2), self.dtype) + self.embed(t)
        z = self.enter(z, self.dtype).float()
        for norm, block in zip(self.norms[:-1], self.blocks, strict=True):
            z = z + block(F.relu(norm(z)), self.dtype)
        out = self.out(F.relu(self.norms[-1](z)), self.dtype)
        return out.float().unflatten(-1, self.shape)

    def loss(self, windows: Tensor, diffusion: Diffusion, rng: ReplicaRng) -> Tensor:
        """Return the squared error of the clean rows at random steps, `[R]`.

        Args:
            windows: normalised, `[R, B, H, S + 2 + A]`.
            diffusion: the schedule.
            rng: source of steps and noise.
        """
        width = self.shape[1]
        x0, action = windows.split([width, windows.shape[-1] - width], dim=-1)
        t = rng.integers(diffusion.steps, x0.shape[1])
        x = diffusion.corrupt(x0, t.unsqueeze(-1), rng.normal(*x0.shape[1:]))
        first = (slice(None), slice(None), 0, slice(width - 2))  # the state that is given
        x[first] = x0[first]
        # Actions are scaled like a sample of step t, but never noisy.
        scaled = diffusion.signal[t][..., None, None] * action
        error = (self(torch.cat([x, scaled], dim=-1), t) - x0).square()
        error[first] = 0.0  # it counts as learned
        return per_replica_mean(error)

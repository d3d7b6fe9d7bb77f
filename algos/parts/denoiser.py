"""Predict the noise of a diffusion policy over actions, and draw actions from it.

QVPO and DIPO share it (QVPO's released code was forked from DIPO's): layer sizes,
activation and initial weights are those of BellmanTimeHut/DIPO c6d8d1b and
wadx2019/qvpo 40a1974.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.diffusion import Diffusion, sinusoids
from algos.parts.heads import TwinCritic
from algos.parts.kernels import mish_
from algos.parts.layers import MLP, SampleMLP, scaled_normal_init
from algos.parts.rng import ReplicaRng


class Denoiser(nn.Module):
    """eps(x_t, t, s): sinusoidal time embedding, then three hidden layers of mish."""

    TIME_DIM = 32
    # Samples up to which a pass costs calls rather than arithmetic: there float32 beats
    # bfloat16 on a CPU, five times at one sample (measured).
    FEW = 12
    sinusoid: Tensor
    time: MLP

    def __init__(
        self,
        rng: ReplicaRng,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        steps: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        table = sinusoids(steps, self.TIME_DIM).to(rng.device)
        self.register_buffer("sinusoid", table, persistent=False)
        time_sizes = [self.TIME_DIM, hidden, self.TIME_DIM]
        self.time = MLP(rng, 1, time_sizes, "mish", init=scaled_normal_init)
        sizes = [self.TIME_DIM + obs_dim, hidden, hidden, hidden, action_dim]
        self.net = SampleMLP(rng, 1, action_dim, sizes, "mish", dtype, scaled_normal_init, dtype)

    def embeddings(self, replicas: int) -> Tensor:
        """Embedding of every step, `[R, T, 32]`."""
        return self.time(self.sinusoid.expand(replicas, -1, -1))

    def forward(self, x: Tensor, t: Tensor, obs: Tensor) -> Tensor:
        """Predicted noise `[R, B, A]` for `x` `[R, B, A]`, `t` `[R, B]`, `obs` `[R, B, S]`."""
        table = self.embeddings(x.shape[0])
        if table.is_cuda:  # the gradient of `gather` adds up in no fixed order there
            steps = torch.arange(table.shape[1], device=t.device)
            embedding = (t.unsqueeze(-1) == steps).to(table.dtype) @ table
        else:
            embedding = table.gather(1, t.unsqueeze(-1).expand(-1, -1, self.TIME_DIM))
        return self.net(x, torch.cat([embedding, obs], dim=-1)).float()

    def squared_error(
        self, diffusion: Diffusion, x0: Tensor, obs: Tensor, rng: ReplicaRng
    ) -> Tensor:
        """(eps(x_t, t, s) - z)² with t and z drawn anew for every row, like `x0`.

        Args:
            diffusion: the schedule.
            x0: clean actions `[R, B, A]`.
            obs: their states `[R, B, S]`.
            rng: source of t and z.
        """
        t = rng.integers(diffusion.steps, x0.shape[1])
        noise = rng.normal(*x0.shape[1:])
        return (self(diffusion.corrupt(x0, t, noise), t, obs) - noise).square()

    @torch.no_grad()
    def sample(
        self,
        diffusion: Diffusion,
        obs: Tensor,
        count: int,
        rng: ReplicaRng,
        noisy: bool = True,
        start_std: float = 1.0,
    ) -> Tensor:
        """Draw `count` actions per state by the reverse process.

        Args:
            diffusion: the schedule.
            obs: `[R, B, S]`.
            count: samples K per state.
            rng: source of all noise.
            noisy: False follows the mean from a random start.
            start_std: standard deviation of the random start.

        Returns:
            `[R, B, K, A]` in [-1, 1].
        """
        shape = (obs.shape[1], count, self.net.sample_dim)
        if count == 1 or obs.shape[1] * count <= self.FEW:
            predict = self._predict_rows(obs.repeat_interleave(count, dim=1))
        else:
            predict = self._predict_many(obs)
        x = rng.normal(*shape).mul_(start_std)
        for t in reversed(range(diffusion.steps)):
            noise = rng.normal(*shape) if noisy and t > 0 else None
            x = diffusion.reverse_step(x, predict(x, t), t, noise)
        return x.clamp_(-1.0, 1.0)

    def _predict_many(self, obs: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a function of `x` `[R, B, K, A]` and t: the noise predicted for `obs`."""
        state, times = self._shares(obs, self.net.dtype)
        return lambda x, t: self.net.many(x, state + times[t]).float()

    def _predict_rows(self, obs: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return the same with an `obs` `[R, B * K, S]` for every sample.

        There are no pieces, and weights are cast once for all steps.
        """
        few = obs.shape[1] <= self.FEW
        dtype = torch.float32 if few else self.net.dtype
        state, times = self._shares(obs, dtype)
        first, *rest = [(la.weight.to(dtype), la.bias.to(dtype)) for la in self.net.layers[:]]
        action_weight = first[0][:, : self.net.sample_dim]

        def predict(x: Tensor, t: int) -> Tensor:
            h = torch.baddbmm(state + times[t], x.flatten(1, 2).to(dtype), action_weight)
            for weight, bias in rest:
                # Torch's kernel is slow but one call; `mish_` is quick but five.
                h = F.mish(h, inplace=True) if few else mish_(h.float()).to(dtype)
                h = torch.baddbmm(bias, h, weight)
            return h.float().view(x.shape)

        return predict

    def _shares(self, obs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        """First-layer shares of `obs`, `[R, B, hidden]`, and of each step, `[R, 1, hidden]`."""
        no_time = obs.new_zeros(*obs.shape[:2], self.TIME_DIM)
        state = self.net.condition(torch.cat([no_time, obs], dim=-1), dtype)
        start = self.net.sample_dim
        weight = self.net.layers[0].weight[:, start : start + self.TIME_DIM]
        times = torch.bmm(self.embeddings(obs.shape[0]), weight).to(dtype)
        return state, times.split(1, dim=1)


def best_action(actions: Tensor, q: Tensor) -> Tensor:
    """Return the action of the largest value: `[R, B, A]` of `[R, B, K, A]` by `q` `[R, B, K]`."""
    index = q.argmax(-1, keepdim=True).unsqueeze(-1).expand(-1, -1, 1, actions.shape[-1])
    return actions.gather(2, index).squeeze(2)


def best_of(
    actor: Denoiser,
    critic: TwinCritic,
    diffusion: Diffusion,
    obs: Tensor,
    count: int,
    rng: ReplicaRng,
    start_std: float = 1.0,
) -> Tensor:
    """Best of `count` samples by the smaller of both values, `[R, B, A]`; `obs` `[R, B, S]`."""
    actions = actor.sample(diffusion, obs, count, rng, start_std=start_std)
    return actions[:, :, 0] if count == 1 else best_action(actions, critic.minimum(obs, actions))

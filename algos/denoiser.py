"""The noise predictor of a diffusion policy over actions, and drawing from it.

QVPO and DIPO share it (QVPO's released code was forked from DIPO's): layer sizes,
activation and initial weights are those of BellmanTimeHut/DIPO c6d8d1b and
wadx2019/qvpo 40a1974.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from algos.diffusion import Diffusion
from algos.networks import MLP, SampleMLP, TwinCritic, scaled_normal_init
from algos.rng import ReplicaRng


class Denoiser(nn.Module):
    """eps(x_t, t, s): sinusoidal time embedding, then three hidden layers of mish."""

    TIME_DIM = 32
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
        half = self.TIME_DIM // 2
        frequency = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
        angle = torch.arange(steps)[:, None] * frequency
        sinusoid = torch.cat([angle.sin(), angle.cos()], dim=-1).to(rng.device)
        self.register_buffer("sinusoid", sinusoid, persistent=False)
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
        embedding = table.gather(1, t.unsqueeze(-1).expand(-1, -1, self.TIME_DIM))
        return self.net(x, torch.cat([embedding, obs], dim=-1)).float()

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
        replicas, size, _ = obs.shape
        shape = (size, count, self.net.sample_dim)
        state = self.net.condition(
            torch.cat([obs.new_zeros(*obs.shape[:2], self.TIME_DIM), obs], -1)
        )
        weight = self.net.layers[0].weight[:, self.net.sample_dim :][:, : self.TIME_DIM]
        time = torch.bmm(self.embeddings(replicas), weight).to(state.dtype)
        x = rng.normal(*shape).mul_(start_std)
        for t in reversed(range(diffusion.steps)):
            epsilon = self.net.many(x, state + time[:, t : t + 1]).float()
            noise = rng.normal(*shape) if noisy and t > 0 else None
            x = diffusion.reverse_step(x, epsilon, t, noise)
        return x.clamp_(-1.0, 1.0)


def best_action(actions: Tensor, q: Tensor) -> Tensor:
    """The action of the largest value: `[R, B, A]` of `[R, B, K, A]` by `q` `[R, B, K]`."""
    index = q.argmax(-1, keepdim=True).unsqueeze(-1).expand(-1, -1, 1, actions.shape[-1])
    return actions.gather(2, index).squeeze(2)


def best_of(
    actor: Denoiser,
    critic: TwinCritic,
    diffusion: Diffusion,
    obs: Tensor,
    count: int,
    rng: ReplicaRng,
) -> Tensor:
    """Best of `count` samples by the smaller of both values, `[R, B, A]`; `obs` `[R, B, S]`."""
    actions = actor.sample(diffusion, obs, count, rng)
    return actions[:, :, 0] if count == 1 else best_action(actions, critic.minimum(obs, actions))

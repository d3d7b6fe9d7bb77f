"""Model the latent variables of LV-Rep and muLV-Rep, and the critic that reads them.

The equations are in `algos.lvrep`; `code` is haotiansun14/rl-rep d4dd78a, as there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.kernels import gaussian_kl, mean_elu
from algos.parts.layers import ACTIVATIONS, StackedLinear
from algos.parts.optim import per_replica_mean
from algos.parts.rng import ReplicaRng

Distribution = tuple[Tensor, ...]
"""What a family makes of the raw outputs of a network."""


class Latent(ABC):
    """A family of distributions of z.

    Attributes:
        dim: size of z.
        outputs: raw outputs of a network that describe one distribution.
        decoder_layers: hidden layers of the decoder (code).
    """

    dim: int
    outputs: int
    decoder_layers: int

    @abstractmethod
    def read(self, raw: Tensor) -> Distribution:
        """Distributions from raw outputs `[R, B, outputs]`."""

    @abstractmethod
    def sample(self, distribution: Distribution, rng: ReplicaRng) -> Tensor:
        """Draw z `[R, B, dim]` that passes gradients on to the distribution."""

    @abstractmethod
    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """KL(q ‖ p) `[R]` per latent variable, averaged over the batch."""

    @abstractmethod
    def points(self, distribution: Distribution, noise: Tensor) -> Tensor:
        """Where the critic is evaluated, `[R, B, M, dim]`; `noise` is `[R, M, dim]`."""


class GaussianLatent(Latent):
    """Independent normal coordinates: mean and log std, this clamped to [-20, 2] (code)."""

    LOG_STD_LOW, LOG_STD_HIGH = -20.0, 2.0
    decoder_layers = 1

    def __init__(self, dim: int) -> None:
        self.dim, self.outputs = dim, 2 * dim

    def read(self, raw: Tensor) -> Distribution:
        """Mean and log std, `[R, B, dim]` each."""
        mean, log_std = raw.chunk(2, dim=-1)
        # A clamp whose gradient is one kernel instead of four.
        return mean, F.hardtanh(log_std, self.LOG_STD_LOW, self.LOG_STD_HIGH)

    def sample(self, distribution: Distribution, rng: ReplicaRng) -> Tensor:
        """See `Latent.sample`."""
        mean, log_std = distribution
        return torch.addcmul(mean, log_std.exp(), rng.normal(*mean.shape[1:]))

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """((std_q / std_p)² + ((mean_q - mean_p) / std_p)² - 1) / 2 - log(std_q / std_p)."""
        return gaussian_kl(*q, *p)

    def points(self, distribution: Distribution, noise: Tensor) -> Tensor:
        """Mean + std e_m."""
        mean, log_std = distribution
        std = log_std.exp().unsqueeze(2)
        return torch.addcmul(mean.unsqueeze(2), std, noise.unsqueeze(1).to(mean.dtype))


class DiscreteLatent(Latent):
    """Independent one-hot vectors: logits of `categories` x `classes`."""

    decoder_layers = 2

    def __init__(self, categories: int, classes: int) -> None:
        self.shape = (categories, classes)
        self.dim = self.outputs = categories * classes

    def read(self, raw: Tensor) -> Distribution:
        """Logits `[R, B, categories, classes]`."""
        return (raw.unflatten(-1, self.shape),)

    def sample(self, distribution: Distribution, rng: ReplicaRng) -> Tensor:
        """Return a one-hot sample with the gradient of the probabilities (straight-through)."""
        (logits,) = distribution
        gumbel = -(-rng.uniform(*logits.shape[1:]).log()).log()
        chosen = (logits.detach() + gumbel).argmax(-1)
        one_hot = F.one_hot(chosen, self.shape[1]).to(logits.dtype)
        probs = logits.softmax(-1)
        return (one_hot + (probs - probs.detach())).flatten(-2)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Sum over classes of q log(q / p), averaged over the one-hot vectors."""
        log_q, log_p = (logits.log_softmax(-1) for (logits,) in (q, p))
        return per_replica_mean((log_q.exp() * (log_q - log_p)).sum(-1))

    def points(self, distribution: Distribution, noise: Tensor) -> Tensor:
        """Return the probabilities, one point for all of the distribution."""
        (logits,) = distribution
        return logits.softmax(-1).flatten(-2).unsqueeze(2)


def mean_relu(x: Tensor) -> Tensor:
    """Mean of relu over axis 2 of `[R, B, M, H]`, float32."""
    return F.relu(x).mean(2, dtype=torch.float32)


MEANS = {"elu": mean_elu, "relu": mean_relu}


class LatentCritic(nn.Module):
    """Two values per replica, each E_z[w(z)] by the same noise vectors.

    Linear -> ELU -> mean over the points -> Linear -> ELU -> Linear. The first layers of
    both critics are one matrix, since both read the same points, which are many.

    Args:
        rng: where initial weights and the fixed noise come from.
        latent: how points follow from features and noise.
        noises: fixed noise vectors; 0 if the latent needs none or each call brings its own.
        hidden: width of both layers.
        dtype: arithmetic of the hidden layers.
        shared_head: one last layer for both critics.
        activation: name in `MEANS`.
    """

    noise: Tensor

    def __init__(
        self,
        rng: ReplicaRng,
        latent: Latent,
        noises: int,
        hidden: int,
        dtype: torch.dtype,
        shared_head: bool,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.first = StackedLinear(rng, 1, latent.dim, 2 * hidden)
        self.second = StackedLinear(rng, 2, hidden, hidden)
        self.out = StackedLinear(rng, 1 if shared_head else 2, hidden, 1)
        # A buffer: saved, and the same in the target critic.
        self.register_buffer("noise", rng.normal(noises, latent.dim))
        self.latent, self.dtype = latent, dtype
        self.mean, self.activation = MEANS[activation], ACTIVATIONS[activation]

    def forward(self, feature: Tensor, frozen: bool = False, noise: Tensor | None = None) -> Tensor:
        """Values `[R, 2, B]`.

        Args:
            feature: raw, `[R, B, outputs]`.
            frozen: see `StackedLinear.forward`.
            noise: vectors `[R, M, dim]` in place of the fixed ones.
        """
        noise = self.noise if noise is None else noise
        x = self.latent.points(self.latent.read(feature), noise)
        replicas, size, points, _ = x.shape
        h = self.first(x.flatten(1, 2), self.dtype, frozen)
        h = self.mean(h.view(replicas, size, points, -1))
        h = h.view(replicas, size, 2, -1).transpose(1, 2).flatten(0, 1)
        h = self.activation(self.second(h, self.dtype, frozen))
        # With a shared head the rows of both critics pass through one matrix.
        h = h.reshape(self.out.weight.shape[0], -1, h.shape[-1])
        return self.out(h, torch.float32, frozen).view(replicas, 2, size)

"""Networks of Diff-SR: spectral features psi, score zeta and the critic on psi.

The first three are for vectors, with the sizes of haotiansun14/rl-rep `agent/diffsrsac`; the others
read latents of frames, after its `agent/diffsrdrq`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.diffusion import sinusoids
from algos.parts.kernels import mish
from algos.parts.layers import Layers, StackedLinear, StackedNorm, repeat_replicas, uniform_init
from algos.parts.precision import compute_dtype
from algos.parts.rng import ReplicaRng
from algos.parts.vision import Trunk


def contract(psi: Tensor, h: Tensor, out: StackedLinear) -> Tensor:
    """Return psiᵀ zeta `[R, B, S]` float32, for zeta = W h + b of `[S, feature_dim]`.

    W holds nearly all weights of Diff-SR, and its three products (score, and the gradients
    of W and of h) nearly all of the arithmetic. So zeta is contracted with psi at once, and
    the bias, which contracts to a small product with psi, stays out of them.

    Args:
        psi: `[R, B, feature_dim]` in the type of the large products.
        h: `[R, B, hidden]` of that type.
        out: W and b, to `S * feature_dim` outputs.
    """
    features = psi.shape[-1]
    zeta = torch.bmm(h, out.weight.to(h.dtype)).view(h.shape[0] * h.shape[1], -1, features)
    from_weight = torch.bmm(zeta, psi.flatten(0, 1).unsqueeze(-1)).view(*h.shape[:2], -1)
    bias = out.bias.to(h.dtype).view(psi.shape[0], -1, features)
    return (from_weight + torch.bmm(psi, bias.transpose(1, 2))).float()


class Zeta(nn.Module):
    """zeta(x, level) = W elu(V [x, level]): one `[feature_dim]` vector per state coordinate."""

    def __init__(
        self, rng: ReplicaRng, obs_dim: int, hidden: int, feature_dim: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.hidden = StackedLinear(rng, 1, obs_dim + 1, hidden)
        self.out = StackedLinear(rng, 1, hidden, obs_dim * feature_dim)
        self.dtype = dtype

    def score(self, psi: Tensor, x: Tensor, level: Tensor) -> Tensor:
        """Return psiᵀ zeta(x, level), `[R, B, S]` float32.

        Args:
            psi: `[R, B, feature_dim]` in the type of the large products.
            x: noisy next states `[R, B, S]`.
            level: `[R, B, 1]`.
        """
        h = F.elu(self.hidden(torch.cat([x, level], dim=-1), self.dtype))
        return contract(psi, h, self.out)


class SpectralHead(nn.Module):
    """Scalars per replica from the features: Linear -> sin -> Linear -> ELU -> Linear.

    Args:
        rng: where initial weights come from.
        copies: scalars per replica, each with weights of its own; 2 for the twin critic.
        feature_dim: size of psi.
        hidden: width of the layers.
        dtype: arithmetic of the large products.
        norm: `layer` normalises psi first, `none` does not.
    """

    def __init__(
        self,
        rng: ReplicaRng,
        copies: int,
        feature_dim: int,
        hidden: int,
        dtype: torch.dtype,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.first = StackedLinear(rng, copies, feature_dim, hidden)
        self.second = StackedLinear(rng, copies, hidden, hidden)
        self.out = StackedLinear(rng, copies, hidden, 1)
        self.copies, self.dtype, self.norm = copies, dtype, norm

    def forward(self, psi: Tensor, frozen: bool = False) -> Tensor:
        """Return scalars `[R, copies, B]` of features `[R, B, feature_dim]`."""
        if self.norm == "layer":
            psi = F.layer_norm(psi.float(), psi.shape[-1:])
        x = repeat_replicas(psi, self.copies)
        x = torch.sin(self.first(x, self.dtype, frozen))
        x = F.elu(self.second(x, self.dtype, frozen))
        return self.out(x, torch.float32, frozen).view(psi.shape[0], self.copies, -1)


class ResidualMLP(nn.Module):
    """Linear, then blocks x + W2 mish(W1 LayerNorm(dropout(x))) of four times the width, mish.

    The network of Hansen-Estruch et al. 2023, IDQL (arXiv 2304.10573), as the code has it; what
    follows on it, a linear map, is left to psi and zeta.
    """

    def __init__(
        self,
        rng: ReplicaRng,
        fan_in: int,
        hidden: int,
        blocks: int,
        dropout: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.first = StackedLinear(rng, 1, fan_in, hidden)
        self.norms = nn.ModuleList(StackedNorm(rng, hidden) for _ in range(blocks))
        self.wide = Layers(StackedLinear(rng, 1, hidden, 4 * hidden) for _ in range(blocks))
        self.narrow = Layers(StackedLinear(rng, 1, 4 * hidden, hidden) for _ in range(blocks))
        self.dropout, self.dtype = dropout, dtype

    def forward(self, x: Tensor, rng: ReplicaRng | None = None) -> Tensor:
        """Map `[R, B, fan_in]` to `[R, B, hidden]` float32; `rng` None switches dropout off."""
        x = self.first(x, self.dtype).float()
        for norm, wide, narrow in zip(self.norms, self.wide, self.narrow, strict=True):
            h = wide(norm(self._drop(x, rng)), self.dtype)
            x = x + narrow(mish(h), self.dtype).float()
        return mish(x)

    def _drop(self, x: Tensor, rng: ReplicaRng | None) -> Tensor:
        if rng is None or self.dropout == 0.0:
            return x
        kept = rng.uniform(*x.shape[1:]) >= self.dropout
        return x * kept / (1.0 - self.dropout)


class LatentPsi(nn.Module):
    """psi(s, a): bottlenecks of latents and action, residual network, linear map.

    Args:
        rng: where initial weights come from.
        state_dim: coordinates of a stack's latents.
        action_dim: A.
        c: options of Diff-SR on pixels.
    """

    def __init__(self, rng: ReplicaRng, state_dim: int, action_dim: int, c: Any) -> None:
        super().__init__()
        dtype = compute_dtype(c.precision, rng.device)
        # With no bias at the start LayerNorm would hide how large an action is.
        self.state = Trunk(rng, state_dim, c.trunk_dim, dtype, uniform_init)
        self.action = Trunk(rng, action_dim, c.trunk_dim, dtype, uniform_init)
        sizes = (2 * c.trunk_dim, c.psi_hidden, c.psi_blocks)
        self.net = ResidualMLP(rng, *sizes, c.dropout, dtype)
        self.out = StackedLinear(rng, 1, c.psi_hidden, c.feature_dim)
        self.dtype = dtype

    def forward(self, state: Tensor, action: Tensor, rng: ReplicaRng | None = None) -> Tensor:
        """Return features `[R, B, d]` in the type of the large products.

        Args:
            state: latents of a stack `[R, B, S]`.
            action: `[R, B, A]`.
            rng: source of dropout; None switches it off.
        """
        x = torch.cat([self.state(state), self.action(action)], dim=-1)
        return cast(Tensor, self.out(self.net(x, rng), self.dtype))


class LatentZeta(nn.Module):
    """zeta(x, k): noisy latent and sinusoidal level, residual network, linear map.

    With the sizes of the code its output is half a gigabyte for a batch of 256, and the linear
    map 269 million weights; so it is contracted with psi at once, see `contract`.
    """

    sinusoid: Tensor

    def __init__(self, rng: ReplicaRng, c: Any) -> None:
        super().__init__()
        self.dtype = compute_dtype(c.precision, rng.device)
        half = c.latent_dim // 4  # the embedding has half the latent's size (code)
        table = sinusoids(c.noise_levels, 2 * half).to(rng.device)
        self.register_buffer("sinusoid", table, persistent=False)
        sizes = (c.latent_dim + 2 * half, c.zeta_hidden, c.zeta_blocks)
        self.net = ResidualMLP(rng, *sizes, c.dropout, self.dtype)
        self.out = StackedLinear(rng, 1, c.zeta_hidden, c.latent_dim * c.feature_dim)

    def forward(self, psi: Tensor, x: Tensor, k: Tensor, rng: ReplicaRng | None = None) -> Tensor:
        """Return psiᵀ zeta(x, k), `[R, B, latent]` float32.

        Args:
            psi: `[R, B, d]`.
            x: noisy latents `[R, B, latent]`.
            k: levels `[R, B]`, integers from 0.
            rng: source of dropout; None switches it off.
        """
        h = self.net(torch.cat([x, self.sinusoid[k]], dim=-1), rng)
        return contract(psi, h.to(self.dtype), self.out)


class NormSpectralCritic(nn.Module):
    """Diff-SR's critic behind a LayerNorm of psi that both heads share."""

    def __init__(self, rng: ReplicaRng, feature_dim: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = StackedNorm(rng, feature_dim)
        self.heads = SpectralHead(rng, 2, feature_dim, hidden, dtype)

    def forward(self, psi: Tensor, frozen: bool = False) -> Tensor:
        """Return values `[R, 2, B]` of `[R, B, d]`; `frozen` passes gradients to psi alone."""
        named = self.norm.named_parameters()
        weights: dict[str, Tensor] = {k: w.detach() if frozen else w for k, w in named}
        h = torch.func.functional_call(self.norm, weights, (psi,))
        return cast(Tensor, self.heads(h, frozen))

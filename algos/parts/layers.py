"""Build layers and networks with a leading stack axis.

A stack is S independent networks of one shape, evaluated by one batched product per
layer: the R replicas of an actor (S = R), or R pairs of critics (S = 2R, the pair of
replica r at 2r and 2r + 1). Weights and gradients are float32. With `dtype` bfloat16
the matrix products run on bfloat16 copies of weights and activations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.kernels import mish, mish_
from algos.parts.rng import ReplicaRng

Initialiser = Callable[[ReplicaRng, int, int, int], tuple[Tensor, Tensor]]


def uniform_init(rng: ReplicaRng, copies: int, fan_in: int, fan_out: int) -> tuple[Tensor, Tensor]:
    """Torch's default for a linear layer: weight and bias U(+-1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)
    weight = rng.uniform(copies, fan_in, fan_out, low=-bound, high=bound)
    bias = rng.uniform(copies, 1, fan_out, low=-bound, high=bound)
    return weight.flatten(0, 1), bias.flatten(0, 1)


def orthogonal_init(
    rng: ReplicaRng, copies: int, fan_in: int, fan_out: int
) -> tuple[Tensor, Tensor]:
    """Orthogonal weight, zero bias."""
    tall = rng.normal(copies, max(fan_in, fan_out), min(fan_in, fan_out)).flatten(0, 1)
    q, r = torch.linalg.qr(tall)
    # The sign of R's diagonal makes the distribution uniform over orthogonal matrices.
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    weight = q if fan_in >= fan_out else q.transpose(-2, -1)
    return weight.contiguous(), torch.zeros(weight.shape[0], 1, fan_out, device=weight.device)


def scaled_normal_init(
    rng: ReplicaRng, copies: int, fan_in: int, fan_out: int
) -> tuple[Tensor, Tensor]:
    """N(0, 1/(4 fan_in)) weight, zero bias: QVPO's and DIPO's released initialisation."""
    weight = rng.normal(copies, fan_in, fan_out).flatten(0, 1) / (2.0 * math.sqrt(fan_in))
    return weight, torch.zeros(weight.shape[0], 1, fan_out, device=weight.device)


class StackedLinear(nn.Module):
    """S affine maps, applied to `[S, B, fan_in]`.

    Args:
        rng: where initial weights come from; it fixes the number of replicas.
        copies: networks per replica, so that S = R * copies.
        fan_in: input size.
        fan_out: output size.
        init: how weights start.
    """

    def __init__(
        self,
        rng: ReplicaRng,
        copies: int,
        fan_in: int,
        fan_out: int,
        init: Initialiser = uniform_init,
    ) -> None:
        super().__init__()
        weight, bias = init(rng, copies, fan_in, fan_out)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(
        self, x: Tensor, dtype: torch.dtype = torch.float32, frozen: bool = False
    ) -> Tensor:
        """Return `[S, B, fan_out]` in `dtype`.

        Args:
            x: `[S, B, fan_in]`.
            dtype: arithmetic of the product.
            frozen: pass gradients to `x` only; the weights get none.
        """
        parameters = (self.weight, self.bias)
        weight, bias = (p.detach().to(dtype) if frozen else p.to(dtype) for p in parameters)
        x = x.to(dtype)
        if weight.shape[-1] == 1:
            # A product and a sum: a matrix product of width 1 costs six times as much.
            return (x * weight.transpose(-2, -1)).sum(-1, keepdim=True) + bias
        return torch.baddbmm(bias, x, weight)


class StackedNorm(nn.Module):
    """Layer normalisation with gains and offsets per replica, `[R, B, features]`."""

    def __init__(self, rng: ReplicaRng, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        shape = (len(rng.generators), 1, features)
        self.weight = nn.Parameter(torch.ones(shape, device=rng.device))
        self.bias = nn.Parameter(torch.zeros(shape, device=rng.device))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; float32."""
        return torch.addcmul(
            self.bias, F.layer_norm(x.float(), x.shape[-1:], eps=self.eps), self.weight
        )


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "mish": mish,
    "tanh": torch.tanh,
}


def repeat_replicas(x: Tensor, copies: int) -> Tensor:
    """Give every network of a replica the replica's input: `[R, ...]` to `[R * copies, ...]`."""
    if copies == 1:
        return x
    return x.unsqueeze(1).expand(-1, copies, *x.shape[1:]).flatten(0, 1)


class Layers(nn.ModuleList):
    """A module list whose items are known to be affine maps."""

    def __getitem__(self, index: Any) -> Any:
        """One layer, or a list of them."""
        return super().__getitem__(index)


class MLP(nn.Module):
    """S multi-layer perceptrons; the last layer is linear.

    Args:
        rng: where initial weights come from.
        copies: networks per replica.
        sizes: input, hidden and output sizes.
        activation: name in `ACTIVATIONS`, used after every hidden layer.
        dtype: arithmetic of the hidden layers.
        init: how weights start.
        out_dtype: arithmetic and type of the output. Values and actions stay float32:
            eight bits of mantissa would round a value of 500 to a multiple of 2.
    """

    def __init__(
        self,
        rng: ReplicaRng,
        copies: int,
        sizes: Sequence[int],
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
        init: Initialiser = uniform_init,
        out_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.layers = Layers(StackedLinear(rng, copies, i, o, init) for i, o in pairs)
        self.copies = copies
        self.activation = ACTIVATIONS[activation]
        self.dtype, self.out_dtype = dtype, out_dtype

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Map `[R, B, in]` to `[R * copies, B, out]`.

        Args:
            x: the same input for all copies of a replica.
            frozen: see `StackedLinear.forward`.
        """
        x = self._copies(x)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x, self.dtype, frozen))
        return self.layers[-1](x, self.out_dtype, frozen)

    def _copies(self, x: Tensor) -> Tensor:
        """Give every copy of a replica the replica's input."""
        return repeat_replicas(x, self.copies)


class SampleMLP(MLP):
    """MLP of (x, condition) that can be evaluated for many x under one condition.

    With K samples per state the condition's share of the first layer is the same for
    all of them, so `condition` computes it once and `many` adds it to each sample's.

    Args:
        rng, copies, activation, dtype, init, out_dtype: see `MLP`.
        sample_dim: size of x, the first part of the input.
        sizes: condition, hidden and output sizes.
    """

    # Rows handled at a time on a CPU, so that activations stay in its cache (measured).
    CHUNK = 2048

    def __init__(
        self,
        rng: ReplicaRng,
        copies: int,
        sample_dim: int,
        sizes: Sequence[int],
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
        init: Initialiser = uniform_init,
        out_dtype: torch.dtype = torch.float32,
    ) -> None:
        all_sizes = [sample_dim + sizes[0], *sizes[1:]]
        super().__init__(rng, copies, all_sizes, activation, dtype, init, out_dtype)
        self.sample_dim = sample_dim

    def forward(self, x: Tensor, condition: Tensor, frozen: bool = False) -> Tensor:  # type: ignore[override]
        """Map `[R, B, x]` and `[R, B, condition]` to `[R * copies, B, out]`."""
        return super().forward(torch.cat([x, condition], dim=-1), frozen)

    @torch.no_grad()
    def condition(self, condition: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """First-layer share of `[R, B, condition]`, `[R * copies, B, hidden]`.

        Computed in `dtype`, by default that of the hidden layers.
        """
        first, dtype = self.layers[0], dtype or self.dtype
        x = self._copies(condition).to(dtype)
        weight = first.weight[:, self.sample_dim :].to(dtype)
        return torch.baddbmm(first.bias.to(dtype), x, weight)

    @torch.no_grad()
    def many(self, x: Tensor, conditioned: Tensor) -> Tensor:
        """Return `[S, B, K, out]` for K samples of each condition, no gradients, in `out_dtype`.

        Args:
            x: samples `[R, B, K, x]`.
            conditioned: result of `condition` for the B conditions.
        """
        x = self._copies(x)
        stack, _, samples, _ = x.shape
        states = max(1, self.CHUNK // (stack * samples)) if x.device.type == "cpu" else x.shape[1]
        weights = [layer.weight.to(self.dtype) for layer in self.layers[:-1]]
        biases = [layer.bias.to(self.dtype) for layer in self.layers[1:-1]]
        # The same buffers serve every layer and every piece: on a CPU, taking fresh memory
        # costs more than the arithmetic done in it.
        shape = (2, stack, min(states, x.shape[1]) * samples, weights[0].shape[-1])
        products = torch.empty(shape, dtype=self.dtype, device=x.device)
        floats = torch.empty(shape, device=x.device)
        pieces = zip(x.split(states, 1), conditioned.split(states, 1), strict=True)
        return torch.cat(
            [self._piece(*piece, weights, biases, products, floats) for piece in pieces], dim=1
        )

    def _piece(
        self,
        x: Tensor,
        conditioned: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        products: Tensor,
        floats: Tensor,
    ) -> Tensor:
        """`many` for as many states as fit the cache."""
        stack, states, samples, _ = x.shape
        (h, spare), floats = (b[:, :, : states * samples] for b in (products, floats))
        torch.bmm(x.flatten(1, 2).to(self.dtype), weights[0][:, : self.sample_dim], out=h)
        h.view(stack, states, samples, -1).add_(conditioned.unsqueeze(2))
        wide = self._activate(h, floats)
        for weight, bias in zip(weights[1:], biases, strict=True):
            if wide is not h:
                h.copy_(wide)
            torch.baddbmm(bias, h, weight, out=spare)
            h, spare = spare, h
            wide = self._activate(h, floats)
        return self.layers[-1](wide, self.out_dtype).view(stack, states, samples, -1)

    def _activate(self, h: Tensor, floats: Tensor) -> Tensor:
        """Activate `h` in float32, written to `h` or else to the first of `floats`."""
        wide = h if h.dtype == torch.float32 else floats[0].copy_(h)
        if self.activation is mish:
            return mish_(wide, floats[1])
        return wide.copy_(self.activation(wide))

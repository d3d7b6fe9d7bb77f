"""Networks of PolyGRAD, and the denoising loop that draws windows from them.

A window is H rows (obs, reward, terminal, action) in normalised units. The denoiser
reads all of it and estimates the clean (obs, reward, terminal); the actions are moved by
the policy's score instead. Everything here is that of marc-rigter/polygrad-world-models
62d0054 (`models/`, `sampling/functions.py`) in the order of its code.

The loop works on one replica. Three identities keep its arithmetic small:

* the first two layers of the denoiser have nothing between them, so they are one product,
  and what they make of the step t is a table;
* the policy reads unnormalised states, so the normaliser goes into its first layer;
* with b = a scale + center, `b + lam (mu - b) / sigma²` is `a + lam (n(mu) - a) / sigma²`,
  and the clip at mu +- c sigma is one of a at n(mu) +- c sigma / scale: nothing has to be
  unnormalised and normalised again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.parts.capture import Graph, reason_of, run_aside
from algos.parts.diffusion import Betas, Diffusion
from algos.parts.gaussian_policy import NormGaussianPolicy, NormMLP
from algos.parts.networks import Layers, StackedLinear, StackedNorm
from algos.parts.normaliser import Normaliser
from algos.parts.rng import ReplicaRng


def tau_betas(steps: int, tau: float) -> Betas:
    """Betas of G = (g(u) - g(1)) / (g(0) - g(1)), g(u) = cos(pi u / 2)^(2 tau), up to 0.999.

    Chen 2023, "On the Importance of Noise Scheduling for Diffusion Models" (arXiv
    2301.10972). A small tau keeps the signal until the last few steps.
    """
    g = np.cos(0.5 * math.pi * np.arange(steps + 1) / steps) ** (2.0 * tau)
    signal = (g - g[-1]) / (g[0] - g[-1])
    return np.clip(1.0 - signal[1:] / signal[:-1], 0.0, 0.999)


# ---------------------------------------------------------------- networks


class Denoiser(nn.Module):
    """f(x_t, sqrt(abar_t) a, t): the clean (obs, reward, terminal) rows of a window.

    With d the numbers of a window and e = max(d, `embed_dim`):

        z = Linear(e, hidden)( Linear(d, e)(window) + time(t) )
        z = z + Linear(hidden, hidden)( relu( LayerNorm(z) ) )        `layers` times
        out = Linear(hidden, H (S + 2))( relu( LayerNorm(z) ) )

    time(t) is Linear . SiLU . Linear of t and of sine and cosine at 8 random frequencies.
    Sums along the layers are float32; only the products are of `dtype`.
    """

    FREQUENCIES = 8
    frequency: Tensor

    def __init__(
        self,
        rng: ReplicaRng,
        horizon: int,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        layers: int,
        embed_dim: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.shape = (horizon, obs_dim + 2)
        window = horizon * (obs_dim + 2 + action_dim)
        embed = max(window, embed_dim)
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
        """Time embedding `[R, B, e]` of steps `t` `[R, B]`."""
        t = t.unsqueeze(-1).float()
        angle = 2.0 * math.pi * t * self.frequency
        h = F.silu(self.time[0](torch.cat([t, angle.sin(), angle.cos()], dim=-1), self.dtype))
        return self.time[1](h, self.dtype)

    def forward(self, window: Tensor, t: Tensor) -> Tensor:
        """Clean rows `[R, B, H, S + 2]` of windows `[R, B, H, S + 2 + A]` at steps `[R, B]`."""
        z = self.project(window.flatten(2), self.dtype) + self.embed(t)
        z = self.enter(z, self.dtype).float()
        for norm, block in zip(self.norms[:-1], self.blocks, strict=True):
            z = z + block(F.relu(norm(z)), self.dtype)
        out = self.out(F.relu(self.norms[-1](z)), self.dtype)
        return out.float().unflatten(-1, self.shape)


# ---------------------------------------------------------------- the same, for the loop


class Weights:
    """Tensors without gradients that stay where they are: a captured graph reads them there."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def store(self, values: Sequence[Tensor]) -> None:
        """Overwrite all tensors; the first call makes them."""
        if not self.tensors:
            self.tensors = [torch.empty_like(v).contiguous() for v in values]
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.copy_(value)


class LoopDenoiser(Weights):
    """`Denoiser` for many evaluations: weights cast once, no fresh memory but for the norms."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, tuple[Tensor, ...]] = {}  # by rows; never moved, see `Weights`

    @torch.no_grad()
    def load(self, net: Denoiser, diffusion: Diffusion) -> None:
        """Take over the weights of `net`."""
        self.dtype, self.shape, self.signal = net.dtype, net.shape, diffusion.signal.tolist()
        step = torch.arange(diffusion.steps, device=diffusion.signal.device)
        enter = net.enter.weight[0]
        table = (net.embed(step[None])[0].float() + net.project.bias[0]) @ enter + net.enter.bias[0]
        values = [(net.project.weight[0] @ enter).to(self.dtype), table.to(self.dtype)]
        for norm, layer in zip(net.norms[:], [*net.blocks[:], net.out], strict=True):
            values += [norm.weight[0, 0], norm.bias[0, 0]]
            values += [layer.weight[0].to(self.dtype), layer.bias[0, 0].to(self.dtype)]
        self.store(values)

    def __call__(self, x: Tensor, a: Tensor, t: int) -> Tensor:
        """Clean rows `[B, H, S + 2]` of rows `x` `[B, H, S + 2]` and actions `a` `[B, H, A]`."""
        entry, table, *layers = self.tensors
        window, z, h, o = self._buffers(len(x), a.shape[-1], entry.shape[1])
        window[..., : x.shape[-1]].copy_(x)
        torch.mul(a, self.signal[t], out=window[..., x.shape[-1] :])
        z.copy_(torch.addmm(table[t], window.flatten(1), entry, out=o))
        for k in range(0, len(layers), 4):
            gain, offset, weight, bias = layers[k : k + 4]
            h.copy_(F.layer_norm(z, z.shape[-1:], gain, offset).relu_())
            if k + 4 < len(layers):
                z.add_(torch.addmm(bias, h, weight, out=o))
        return torch.addmm(bias, h, weight).float().unflatten(-1, self.shape)

    def _buffers(self, rows: int, action_dim: int, hidden: int) -> tuple[Tensor, ...]:
        """Network input, sums along the layers, a layer's input and its output."""
        if rows not in self.buffers:
            device, (horizon, width) = self.tensors[0].device, self.shape
            window = torch.empty(rows, horizon, width + action_dim, dtype=self.dtype, device=device)
            z = torch.empty(rows, hidden, device=device)
            narrow = (torch.empty_like(z, dtype=self.dtype) for _ in range(2))
            self.buffers[rows] = (window, z, *narrow)
        return self.buffers[rows]


class LoopPolicy(Weights):
    """`NormGaussianPolicy` between normalised states and normalised actions."""

    @torch.no_grad()
    def load(
        self,
        policy: NormGaussianPolicy,
        moments: Normaliser[Tensor],
        guidance: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """Take over the weights of `policy`.

        Args:
            policy: the policy on unnormalised numbers.
            moments: the normaliser of packed rows.
            guidance: lam, `[1]`.
            dtype: arithmetic of the products.
        """
        first, second, last = policy.net.layers[:]
        self.obs_dim, action_dim = first.weight.shape[1], last.weight.shape[2]
        self.dtype = dtype
        obs, act = slice(self.obs_dim), slice(-action_dim, None)
        center, scale, std = moments.center, moments.scale, policy.std()[0, 0]
        values = [
            (scale[obs, None] * first.weight[0]).to(dtype),
            # Float32: an observation may be far from 0 compared with its spread.
            first.bias[0, 0] + center[obs] @ first.weight[0],
            second.weight[0].to(dtype),
            second.bias[0, 0],
            *(p[0, 0] for norm in policy.net.norms[:] for p in (norm.weight, norm.bias)),
            last.weight[0].to(dtype),
            last.bias[0, 0],
            center[act],
            scale[act],
            std / scale[act],
            guidance / std.square(),
            guidance,
        ]
        self.store(values)

    @property
    def spread(self) -> Tensor:
        """Standard deviation in normalised units, `[A]`."""
        return self.tensors[-3]

    @property
    def pull(self) -> Tensor:
        """Share lam / sigma² of its way to the mean that guidance moves an action, `[A]`."""
        return self.tensors[-2]

    @property
    def guidance(self) -> Tensor:
        """lam, `[1]`."""
        return self.tensors[-1]

    def mean(self, states: Tensor) -> Tensor:
        """Normalised mean actions `[B, H, A]` of normalised states `[B, H, S]`."""
        w1, b1, w2, b2, g1, o1, g2, o2, w3, b3, center, scale, *_ = self.tensors
        h = states.flatten(0, 1)
        for weight, bias, gain, offset in ((w1, b1, g1, o1), (w2, b2, g2, o2)):
            h = torch.mm(h.to(self.dtype), weight).float() + bias
            h = F.elu(F.layer_norm(h, h.shape[-1:], gain, offset, NormMLP.EPS), inplace=True)
        mean = (torch.tanh(torch.mm(h.to(self.dtype), w3).float() + b3) - center) / scale
        return mean.unflatten(0, states.shape[:2])


# ---------------------------------------------------------------- the loop

Chain = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Imagination:
    """Draws windows by policy-guided denoising (Rigter et al. 2023, algorithm 1).

    Args:
        diffusion: the schedule.
        config: options of PolyGRAD.
        action_dim: A.
    """

    # Windows handled at a time on a CPU, so that activations stay in its cache (measured).
    CHUNK = 256

    def __init__(self, diffusion: Diffusion, config: Any, action_dim: int) -> None:
        self.diffusion, self.config, self.action_dim = diffusion, config, action_dim
        self.denoiser, self.policy = LoopDenoiser(), LoopPolicy()
        self.graph = GraphedChain(self.chain)

    def load(
        self,
        denoiser: Denoiser,
        policy: NormGaussianPolicy,
        moments: Normaliser[Tensor],
        guidance: Tensor,
    ) -> None:
        """Take over the weights of both networks, the normaliser and lam."""
        self.denoiser.load(denoiser, self.diffusion)
        self.policy.load(policy, moments, guidance, denoiser.dtype)

    @torch.no_grad()
    def draw(self, start: Tensor, rng: ReplicaRng) -> tuple[Tensor, Tensor]:
        """Windows that begin at given states.

        Args:
            start: normalised observations `[1, B, S]`.
            rng: source of all noise.

        Returns:
            Normalised rows (obs, reward, terminal) `[1, B, H, S + 2]` and actions
            `[1, B, H, A]`.
        """
        on_cpu = start.device.type == "cpu"
        run, size = (self.chain, self.CHUNK) if on_cpu else (self.graph, start.shape[1])
        steps, horizon = self.diffusion.steps, self.config.horizon
        widths = [start.shape[-1] + 2, self.action_dim]
        parts = []
        for states in start[0].split(size):
            # All noise of a piece at once: index t serves step t, and index 0 the beginning.
            noise = rng.normal(steps, len(states), horizon, sum(widths))[0]
            parts.append(run(states, *noise.split(widths, dim=-1)))
        x, a = (torch.cat(part).unsqueeze(0) for part in zip(*parts, strict=True))
        return x, a

    def chain(self, start: Tensor, x_noise: Tensor, a_noise: Tensor) -> tuple[Tensor, Tensor]:
        """The loop, a function of its noise.

        Args:
            start: normalised first observations `[B, S]`, held fixed.
            x_noise: standard normal `[T, B, H, S + 2]`.
            a_noise: standard normal `[T, B, H, A]`.
        """
        c, d, obs_dim = self.config, self.diffusion, start.shape[-1]
        x, a = x_noise[0].clone(), a_noise[0].clone()
        x[:, 0, :obs_dim] = start
        for t in reversed(range(d.steps)):
            clean = self.denoiser(x, a, t)
            clean[:, 0, :obs_dim] = start
            mean = clean.mul(d.mean_x0[t]).add_(x, alpha=d.mean_x[t])
            if c.state_clip > 0.0 and t <= c.state_clip_until:
                mean = (mean - x).clamp_(-c.state_clip, c.state_clip).add_(x)
            states = (clean if c.guidance_states == "x0" else mean)[..., :obs_dim]
            a, spread = self._move(a, states, t)
            if c.update_states and c.guidance == "gradient" and t > 0:
                score = self._state_score(a, states)
                clean[..., :obs_dim] = states + self.policy.guidance * score
                clean[:, 0, :obs_dim] = start
                mean = clean.mul(d.mean_x0[t]).add_(x, alpha=d.mean_x[t])
            if t > 0:
                mean.add_(x_noise[t], alpha=d.std[t])
                a = a + spread * a_noise[t]
            mean[:, 0, :obs_dim] = start
            x = mean
        return x, a

    def _move(self, a: Tensor, states: Tensor, t: int) -> tuple[Tensor, Tensor | float]:
        """Actions after step t but for their noise, and the standard deviation of that noise."""
        c, policy = self.config, self.policy
        if c.guidance == "none" and t > 0:
            return a, 0.0
        mean = policy.mean(states)
        if c.guidance == "sample" and t > 0:
            return mean, policy.spread
        gap = a - mean
        if c.action_clip > 0.0:
            limit = c.action_clip * policy.spread
            gap = torch.clamp(gap, -limit, limit)
        if t > 0:
            pull = policy.pull if c.overshoot else policy.pull.clamp(max=1.0)
            gap.mul_(1.0 - pull)
        return gap.add_(mean), c.action_noise * self.diffusion.std[t]

    @torch.enable_grad()
    def _state_score(self, a: Tensor, states: Tensor) -> Tensor:
        """Gradient of log pi(a|s) with respect to the states, all normalised."""
        states = states.detach().requires_grad_()
        mean = self.policy.mean(states)
        (score,) = torch.autograd.grad(
            mean, states, (a - mean.detach()) / self.policy.spread.square()
        )
        return score


class GraphedChain:
    """A chain captured as a CUDA graph, for one shape of its inputs at a time.

    Without a graph (none could be captured) it runs the chain as it is, and says so once.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.inputs: list[Tensor] = []
        self.graph: Graph[tuple[Tensor, Tensor]] | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The chain's result for these inputs."""
        if [v.shape for v in self.inputs] != [v.shape for v in inputs]:
            self._capture(inputs)
        if self.graph is None:
            return self.chain(*inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        x, a = self.graph.replay()
        return x.clone(), a.clone()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        self.inputs, self.graph = [value.clone() for value in inputs], None

        def run() -> tuple[Tensor, Tensor]:
            return self.chain(*self.inputs)

        device = inputs[0].device
        try:
            run_aside(run, device)
            self.graph = Graph(run, device)
        except RuntimeError as error:
            warnings.warn(
                f"PolyGRAD samples without a CUDA graph: {reason_of(error)}", stacklevel=2
            )

"""Windows drawn from a trajectory denoiser under a policy: PolyGRAD's denoising loop.

The denoiser cleans (obs, reward, terminal) of a window; the actions are moved by the policy's
score instead. Everything here is that of marc-rigter/polygrad-world-models 62d0054
(`sampling/functions.py`) in the order of its code.

The loop works on one replica. Three identities keep its arithmetic small:

* the first two layers of the denoiser have nothing between them, so they are one product,
  and what they make of the step t is a table;
* the policy reads unnormalised states, so the normaliser goes into its first layer;
* with b = a scale + center, `b + lam (mu - b) / sigma²` is `a + lam (n(mu) - a) / sigma²`,
  and the clip at mu +- c sigma is one of a at n(mu) +- c sigma / scale: nothing has to be
  unnormalised and normalised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.parts.capture import CapturedFunction
from algos.parts.diffusion import Diffusion
from algos.parts.gaussian_policy import NormGaussianPolicy, NormMLP
from algos.parts.normaliser import Normaliser
from algos.parts.rng import ReplicaRng
from algos.parts.trajectory_denoiser import TrajectoryDenoiser


class Windows(NamedTuple):
    """Imagined windows in the units of the task.

    Attributes:
        obs: `[R, B, H, S]`.
        action: `[R, B, H, A]`.
        reward: `[R, B, H]`.
        terminal: `[R, B, H]`, 1 where the step ended the task.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminal: Tensor


class InferenceWeights:
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


class InferenceDenoiser(InferenceWeights):
    """`TrajectoryDenoiser` for many evaluations.

    Weights are cast once, and only the norms take fresh memory.
    """

    def __init__(self) -> None:
        super().__init__()
        # By rows; never moved, see `InferenceWeights`.
        self.buffers: dict[int, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def load(self, net: TrajectoryDenoiser, diffusion: Diffusion) -> None:
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
        """Return clean rows of rows `x`, `[B, H, S + 2]` each, and actions `a` `[B, H, A]`."""
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
        """Return the network input, sums along the layers, a layer's input and its output."""
        if rows not in self.buffers:
            device, (horizon, width) = self.tensors[0].device, self.shape
            window = torch.empty(rows, horizon, width + action_dim, dtype=self.dtype, device=device)
            z = torch.empty(rows, hidden, device=device)
            narrow = (torch.empty_like(z, dtype=self.dtype) for _ in range(2))
            self.buffers[rows] = (window, z, *narrow)
        return self.buffers[rows]


class InferencePolicy(InferenceWeights):
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
        """Return normalised mean actions `[B, H, A]` of normalised states `[B, H, S]`."""
        w1, b1, w2, b2, g1, o1, g2, o2, w3, b3, center, scale, *_ = self.tensors
        h = states.flatten(0, 1)
        for weight, bias, gain, offset in ((w1, b1, g1, o1), (w2, b2, g2, o2)):
            h = torch.mm(h.to(self.dtype), weight).float() + bias
            h = F.elu(F.layer_norm(h, h.shape[-1:], gain, offset, NormMLP.EPS), inplace=True)
        mean = (torch.tanh(torch.mm(h.to(self.dtype), w3).float() + b3) - center) / scale
        return mean.unflatten(0, states.shape[:2])


class Imagination:
    """Draws windows by policy-guided denoising (Rigter et al. 2023, algorithm 1).

    Args:
        diffusion: the schedule.
        config: options of PolyGRAD.
        action_dim: A.
    """

    # Largest t of the last steps, in which `state_clip` bounds the change of a number (code).
    STATE_CLIP_UNTIL = 10
    # Windows handled at a time on a CPU, so that activations stay in its cache (measured).
    CHUNK = 256

    def __init__(self, diffusion: Diffusion, config: Any, action_dim: int) -> None:
        self.diffusion, self.config, self.action_dim = diffusion, config, action_dim
        self.denoiser, self.policy = InferenceDenoiser(), InferencePolicy()
        self.graph = CapturedFunction(self.chain, "PolyGRAD samples")

    def load(
        self,
        denoiser: TrajectoryDenoiser,
        policy: NormGaussianPolicy,
        moments: Normaliser[Tensor],
        guidance: Tensor,
    ) -> None:
        """Take over the weights of both networks, the normaliser and lam."""
        self.denoiser.load(denoiser, self.diffusion)
        self.policy.load(policy, moments, guidance, denoiser.dtype)

    def windows(self, obs: Tensor, moments: Normaliser[Tensor], rng: ReplicaRng) -> Windows:
        """Draw a window from each state.

        Args:
            obs: states `[1, B, S]` in the units of the task.
            moments: the normaliser that was given to `load`.
            rng: source of all noise.
        """
        x, action = self.draw(moments.normalise(obs), rng)
        rows = moments.unnormalise(torch.cat([x, action], dim=-1))
        widths = [obs.shape[-1], 1, 1, self.action_dim]
        states, reward, terminal, action = rows.split(widths, dim=-1)
        return Windows(states, action, reward[..., 0], (terminal[..., 0] > 0.5).float())

    @torch.no_grad()
    def draw(self, start: Tensor, rng: ReplicaRng) -> tuple[Tensor, Tensor]:
        """Draw windows that begin at given states.

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
        """Run the loop, a function of its noise.

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
            if c.state_clip > 0.0 and t <= self.STATE_CLIP_UNTIL:
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
        """Return the actions after step t without their noise, and the noise's std."""
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
        return gap.add_(mean), self.diffusion.std[t]

    @torch.enable_grad()
    def _state_score(self, a: Tensor, states: Tensor) -> Tensor:
        """Return the gradient of log pi(a|s) with respect to the states, all normalised."""
        states = states.detach().requires_grad_()
        mean = self.policy.mean(states)
        (score,) = torch.autograd.grad(
            mean, states, (a - mean.detach()) / self.policy.spread.square()
        )
        return score

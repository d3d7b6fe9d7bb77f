"""Diff-SR from pixels: the next frame's latent is diffused, a stack of frames stands for history.

Shribak, Gao, Li, Xiao, Dai 2024, "Diffusion Spectral Representation for Reinforcement Learning"
(arXiv 2406.16121), the experiments on images. A variational autoencoder (VAE) encodes each frame
alone. With e its latents, s = (e_{t-2}, e_{t-1}, e_t) those of a stack that one random shift has
moved, e' the latent of the next frame as it is, and d the size of psi:

    VAE      L_vae = mean_{4B frames} [ |D(e) - x|² + w KL(q(e|x) ‖ N(0, I)) ]
    noisy    x_k = sqrt(abar_k) e' + sqrt(1 - abar_k) eps,        k uniform over the levels
    score    f(x, k | s, a) = psi(s, a)ᵀ zeta(x, k) / d
             L_score = E ‖ sqrt(1 - abar_k) f(x_k, k | s, a) + eps ‖²                  (eq. 18)
    critic   Q_i(s, a) = w_iᵀ elu(W_i2 sin(W_i1 LayerNorm(psi(m, a))))            (eq. 20-21)
             y = R + gamma^n min_i Q'_i(psi'(m'_n, mu(m'_n) + eps))
             L = L_vae + L_score + mean_i E[ (Q_i - y)² ]
    actor    E[ -min_i Q_i(psi'(sg m, mu(sg m) + eps)) ]

s and e' are posterior samples and pass gradients on, so that the score trains the VAE. Critic
and actor read posterior means m instead; the critic's gradient trains psi and the VAE too. A
prime at Q, psi and m marks exponential averages: of critic, psi and VAE. Memory, policy, its
noise and its schedule are DrQ-v2's (`algos.base.drq`), and R is its n-step return.

Sizes and rates are those of the authors' code, haotiansun14/rl-rep `d4dd78a`,
`agent/diffsrdrq` (`configs/latent_diff_sr.yaml`). Where text and code disagree:

* Table 5 has psi of 1024, batches of 1024, 4 and 2 residual blocks in psi and zeta, and a rate
  of 3e-4 for the critic; the yaml has 2048, 256, 2 and 4, and 1e-4. Default: yaml. It is what
  the released code runs, the text contradicts itself on the critic's rate, and an update costs
  half as much. Preset `paper`: Table 5.
* A later refactor by one of the authors (typoverflow/spectral-rl2 `5b248fe`) predicts noise over
  50 levels, does not divide by d, has no dropout and cuts some gradients. Preset `refactored`:
  its switches, with the networks of this file.

Before it acts, the code makes 10,000 updates while the environment waits: 5,000 of the VAE, then
5,000 of VAE and score, and copies the targets. That is one call of `update`, hours on a CPU, in
which nothing can be saved, stopped or seen. Here `pretrain_per_update` of them are made at each
time when an update is due, and actions stay uniform until all are done: 1,000 more random steps
by default, two thousandths of a run. The VAE sees a little more data, not less, and a kill
repeats one call. Preset `released`: all in the first call. Whether pre-training goes on is told
by the count of steps, so that a resumed run knows it too.

What differs from the code without an option: the VAE's convolutions start from orthogonal
weights, zeta has no average (the code only looks at it), the code's orthogonality loss, weight
0, is left out, and gradients are clipped together rather than per network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from algos.base.drq import DrQActor, DrQAgent, DrQConfig
from algos.diffsr import SpectralHead, contract
from algos.parts.config import option
from algos.parts.diffusion import SCHEDULES, Diffusion, sinusoids
from algos.parts.kernels import mish
from algos.parts.layers import Layers, StackedLinear, StackedNorm, uniform_init
from algos.parts.optim import (
    adam,
    bellman_target,
    clone_frozen,
    critic_loss,
    per_replica_mean,
    polyak_,
    step,
)
from algos.parts.precision import compute_dtype
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.vision import FRAME, FrameVAE, Trunk, random_shift, sample_normal, split_frames


@dataclass(frozen=True, kw_only=True)
class PixelDiffSRConfig(DrQConfig):
    """Options of Diff-SR on pixels; `code` in a sentence is haotiansun14/rl-rep, diffsrdrq.

    Those of DrQ-v2 have its code's values, which are the same there but for the trunk.
    """

    trunk_dim: int = option(512, "features behind the bottlenecks of actor and psi (code)", low=1)
    learning_rate: float = option(1e-4, "Adam of the actor (code)", low=0.0)
    critic_learning_rate: float = option(
        1e-4, "Adam of the critic's heads (code; 3e-4 in Table 5)", low=0.0
    )
    vae_learning_rate: float = option(3e-4, "Adam of the VAE (code)", low=0.0)
    feature_learning_rate: float = option(3e-4, "AdamW of psi and zeta (code, Table 5)", low=0.0)
    weight_decay: float = option(0.01, "of that AdamW (code, by torch's default)", low=0.0)
    max_grad_norm: float = option(
        0.0, "limit of the joint gradient's norm; 0 is none (code; 100 in the refactor)", low=0.0
    )
    latent_dim: int = option(256, "size of a frame's latent (code)", low=4)
    kl_weight: float = option(1.0, "weight w of the KL (code; 0.1 in the refactor)", low=0.0)
    reconstruct: str = option(
        "all",
        "frames in the VAE's loss: all of stack and next frame (code), or the next alone (cheaper)",
        choices=("all", "next"),
    )
    feature_dim: int = option(2048, "size d of psi (code; 1024 in Table 5)", low=1)
    psi_hidden: int = option(512, "width of psi's residual network (code, Table 5)", low=1)
    psi_blocks: int = option(2, "its blocks (code; 4 in Table 5)", low=0)
    zeta_hidden: int = option(512, "width of zeta's residual network (code, Table 5)", low=1)
    zeta_blocks: int = option(4, "its blocks (code; 2 in Table 5)", low=0)
    dropout: float = option(0.1, "share of inputs that a block drops (code)", low=0.0, high=0.99)
    noise_levels: int = option(1000, "noise levels (code, Table 5; 50 in the refactor)", low=3)
    noise_schedule: str = option(
        "linear",
        "betas: linear from 1e-4 to 0.02 (code) or vp (refactor); few levels need vp",
        choices=("linear", "vp"),
    )
    predict: str = option(
        "score",
        "what psi and zeta give: score (code) or noise (refactor)",
        choices=("score", "noise"),
    )
    divide_score: bool = option(True, "divide psiᵀzeta by d (code; not in the refactor)")
    detach_next_latent: bool = option(
        False, "keep the score's gradient from the next frame's latent (refactor)"
    )
    critic_trains_features: bool = option(
        True, "let the critic train psi and the VAE too; else it reads the averages (code)"
    )
    pretrain_updates: int = option(10_000, "updates before the policy acts (code)", low=0)
    vae_pretrain_updates: int = option(5_000, "the first of them, for the VAE alone (code)", low=0)
    pretrain_per_update: int = option(
        20, "of them at a time; 10,000 is the code's single pause (own choice)", low=1
    )


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


class PixelPsi(nn.Module):
    """psi(s, a): bottlenecks of latents and action, residual network, linear map."""

    def __init__(
        self, rng: ReplicaRng, state_dim: int, action_dim: int, c: PixelDiffSRConfig
    ) -> None:
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
        """Features `[R, B, d]` in the type of the large products.

        Args:
            state: latents of a stack `[R, B, S]`.
            action: `[R, B, A]`.
            rng: source of dropout; None switches it off.
        """
        x = torch.cat([self.state(state), self.action(action)], dim=-1)
        return cast(Tensor, self.out(self.net(x, rng), self.dtype))


class PixelZeta(nn.Module):
    """zeta(x, k): noisy latent and sinusoidal level, residual network, linear map.

    With the sizes of the code its output is half a gigabyte for a batch of 256, and the linear
    map 269 million weights; so it is contracted with psi at once, see `algos.diffsr.contract`.
    """

    sinusoid: Tensor

    def __init__(self, rng: ReplicaRng, c: PixelDiffSRConfig) -> None:
        super().__init__()
        self.dtype = compute_dtype(c.precision, rng.device)
        half = c.latent_dim // 4  # the embedding has half the latent's size (code)
        table = sinusoids(c.noise_levels, 2 * half).to(rng.device)
        self.register_buffer("sinusoid", table, persistent=False)
        sizes = (c.latent_dim + 2 * half, c.zeta_hidden, c.zeta_blocks)
        self.net = ResidualMLP(rng, *sizes, c.dropout, self.dtype)
        self.out = StackedLinear(rng, 1, c.zeta_hidden, c.latent_dim * c.feature_dim)

    def forward(self, psi: Tensor, x: Tensor, k: Tensor, rng: ReplicaRng | None = None) -> Tensor:
        """psiᵀ zeta(x, k), `[R, B, latent]` float32.

        Args:
            psi: `[R, B, d]`.
            x: noisy latents `[R, B, latent]`.
            k: levels `[R, B]`, integers from 0.
            rng: source of dropout; None switches it off.
        """
        h = self.net(torch.cat([x, self.sinusoid[k]], dim=-1), rng)
        return contract(psi, h.to(self.dtype), self.out)


class NormCritic(nn.Module):
    """Diff-SR's critic behind a LayerNorm of psi that both heads share."""

    def __init__(self, rng: ReplicaRng, feature_dim: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = StackedNorm(rng, feature_dim)
        self.heads = SpectralHead(rng, 2, feature_dim, hidden, dtype)

    def forward(self, psi: Tensor, frozen: bool = False) -> Tensor:
        """Values `[R, 2, B]` of features `[R, B, d]`; `frozen` passes gradients to psi alone."""
        named = self.norm.named_parameters()
        weights: dict[str, Tensor] = {k: w.detach() if frozen else w for k, w in named}
        h = torch.func.functional_call(self.norm, weights, (psi,))
        return cast(Tensor, self.heads(h, frozen))


class PixelDiffSR(DrQAgent):
    """Diff-SR whose states are latents of frames: VAE, score-matched features, DrQ-v2's policy."""

    title = "Diff-SR"
    paper = "Shribak et al. 2024, Diffusion Spectral Representation for RL, arXiv 2406.16121"
    Config = PixelDiffSRConfig
    config: PixelDiffSRConfig
    presets = {
        "released": {"pretrain_per_update": 10_000, "precision": "float32"},
        "paper": {
            "feature_dim": 1024,
            "batch_size": 1024,
            "psi_blocks": 4,
            "zeta_blocks": 2,
            "critic_learning_rate": 3e-4,
        },
        "refactored": {
            "feature_dim": 1024,
            "kl_weight": 0.1,
            "vae_learning_rate": 1e-4,
            "feature_learning_rate": 1e-4,
            "noise_levels": 50,
            "noise_schedule": "vp",
            "predict": "noise",
            "divide_score": False,
            "dropout": 0.0,
            "detach_next_latent": True,
            "max_grad_norm": 100.0,
        },
        "quick": {
            "batch_size": 32,
            "reconstruct": "next",
            "latent_dim": 32,
            "trunk_dim": 64,
            "hidden": 128,
            "feature_dim": 64,
            "psi_hidden": 128,
            "psi_blocks": 1,
            "zeta_hidden": 128,
            "zeta_blocks": 1,
            "noise_levels": 100,
            "noise_schedule": "vp",
            "noise_steps": 5_000,
            "vae_learning_rate": 1e-3,
            "feature_learning_rate": 1e-3,
            "pretrain_updates": 60,
            "vae_pretrain_updates": 40,
            "pretrain_per_update": 6,
        },
    }

    # Bound of latents on the way from noise to a frame (code).
    LATENT_BOUND = 7.0

    def make_vision(self) -> None:
        """No shared encoder: the VAE encodes frame by frame."""

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, rng, shape = self.config, self.rng, self.spaces.obs_shape
        dtype = self.dtype
        self.stack = shape[0] // FRAME
        state_dim, action_dim = self.stack * c.latent_dim, self.spaces.action_dim
        self.vae = FrameVAE(rng, shape[1:], c.latent_dim, dtype)
        self.psi = PixelPsi(rng, state_dim, action_dim, c)
        self.zeta = PixelZeta(rng, c)
        self.critic = NormCritic(rng, c.feature_dim, c.hidden, dtype)
        self.actor = DrQActor(rng, state_dim, action_dim, c.trunk_dim, c.hidden, dtype)
        self.vae_target = clone_frozen(self.vae)
        self.psi_target = clone_frozen(self.psi)
        self.target = clone_frozen(self.critic)
        features = [*self.psi.parameters(), *self.zeta.parameters()]
        decayed = {"lr": c.feature_learning_rate, "weight_decay": c.weight_decay}
        # One optimiser, since one loss trains them all; without decay AdamW is Adam.
        self.model_optimizer = torch.optim.AdamW(
            [
                {"params": [*self.vae.parameters()], "lr": c.vae_learning_rate},
                {"params": features, **decayed},
                {"params": [*self.critic.parameters()], "lr": c.critic_learning_rate},
            ],
            weight_decay=0.0,
            fused=True,
        )
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)
        betas = SCHEDULES[c.noise_schedule](c.noise_levels)
        self.diffusion = Diffusion(betas, self.device)
        self.betas = betas.tolist()
        # Updates come at every `update_every`-th step.
        pauses = math.ceil(c.pretrain_updates / c.pretrain_per_update)
        self.pretrain_end = c.random_steps + c.update_every * pauses

    # ------------------------------------------------------------ acting

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """The policy on averaged latents; while exploring, uniform until pre-training is over."""
        if explore and self.counters.steps < self.pretrain_end:
            return rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        return super().exploit(self.states(obs, self.vae_target), explore, rng)

    def states(self, stacks: Tensor, vae: FrameVAE) -> Tensor:
        """Posterior means `[R, B, S]` of the frames of uint8 stacks `[R, B, 3 * k, H, W]`."""
        return self.join(vae.encode(split_frames(stacks))[0])

    def join(self, latents: Tensor) -> Tensor:
        """Latents of stacks `[R, B, S]` from those of their frames `[R, B * k, latent]`."""
        return latents.unflatten(1, (-1, self.stack)).flatten(2)

    # ------------------------------------------------------------ learning

    def learn(self) -> dict[str, Tensor]:
        """Some pre-training, or one joint step, one of the actor, and the averages."""
        if self.counters.steps <= self.pretrain_end:
            self.pretrain()
            with torch.no_grad():  # so that the log shows how pre-training goes
                _, metrics, state = self.joint_loss(*self.draw())
                return metrics | self.actor_metrics(self.actor_loss(state))
        loss, metrics, state = self.joint_loss(*self.draw())
        step(self.model_optimizer, loss.sum(), self.replicas, self.config.max_grad_norm)
        actor_loss = self.actor_loss(state)
        step(self.actor_optimizer, actor_loss.sum())
        self.update_targets(self.config.tau)
        return metrics | self.actor_metrics(actor_loss)

    def pretrain(self) -> None:
        """The share of pre-training that is due at this step."""
        c = self.config
        done = (self.counters.steps - c.random_steps - 1) // c.update_every * c.pretrain_per_update
        for update in range(done, min(done + c.pretrain_per_update, c.pretrain_updates)):
            batch, next_frame = self.draw()
            losses, state, next_latent, _ = self.vae_losses(batch.obs, next_frame)
            loss = losses["reconstruction_loss"] + c.kl_weight * losses["kl"]
            if update >= c.vae_pretrain_updates:
                loss = loss + self.score_loss(state, batch.action, next_latent)
            step(self.model_optimizer, loss.sum(), self.replicas, c.max_grad_norm)
        self.update_targets(1.0)

    def draw(self) -> tuple[Batch, Tensor]:
        """A batch whose stacks are shifted at random, and the frames that follow on its steps."""
        index = self.replay.draw(self.config.batch_size, self.rng)
        batch = self.replay.batch(index)
        shifted = {k: random_shift(getattr(batch, k), self.rng) for k in ("obs", "next_obs")}
        return batch._replace(**shifted), self.replay.frames(index, 1)

    def joint_loss(
        self, batch: Batch, next_frame: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What trains everything but the actor.

        Args:
            batch: of n steps, from `draw`.
            next_frame: `[R, B, 3, H, W]` uint8.

        Returns:
            The loss `[R]`, metrics, and the means of the stacks `[R, B, S]` without graph.
        """
        losses, state, next_latent, mean = self.vae_losses(batch.obs, next_frame)
        score_loss = self.score_loss(state, batch.action, next_latent)
        q = self.values(mean, batch.action)
        td_loss = critic_loss(q, self.td_target(batch))
        # The mean of both heads: their share in the gradient of psi and VAE depends on it.
        loss = losses["reconstruction_loss"] + self.config.kl_weight * losses["kl"]
        loss = loss + score_loss + 0.5 * td_loss
        losses |= {"score_loss": score_loss, "critic_loss": td_loss, "q": per_replica_mean(q)}
        return loss, {name: value.detach() for name, value in losses.items()}, mean.detach()

    def vae_losses(
        self, stacks: Tensor, next_frame: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Losses of the VAE, and what it makes of stacks and next frames.

        Returns:
            Both terms `[R]`, samples of the stacks `[R, B, S]` and of the next frames
            `[R, B, latent]`, and the means of the stacks.
        """
        frames = torch.cat([split_frames(stacks), next_frame], dim=1)
        mean, log_var = self.vae.encode(frames)
        latent = sample_normal(mean, log_var, self.rng)
        size = next_frame.shape[1]
        first = 0 if self.config.reconstruct == "all" else frames.shape[1] - size
        judged = (part[:, first:] for part in (frames, mean, log_var, latent))
        reconstruction, kl = self.vae.loss(*judged)
        state, next_latent = self.join(latent[:, :-size]), latent[:, -size:]
        losses = {"reconstruction_loss": reconstruction, "kl": kl}
        return losses, state, next_latent, self.join(mean[:, :-size])

    def score_loss(self, state: Tensor, action: Tensor, next_latent: Tensor) -> Tensor:
        """Score matching of the noisy next latent, `[R]` (eq. 18).

        Args:
            state: latents of the stacks `[R, B, S]`.
            action: `[R, B, A]`.
            next_latent: clean, `[R, B, latent]`.
        """
        if self.config.detach_next_latent:
            next_latent = next_latent.detach()
        k = self.rng.integers(self.diffusion.steps, next_latent.shape[1])
        noise = self.rng.normal(*next_latent.shape[1:])
        x = self.diffusion.corrupt(next_latent, k, noise)
        score = self.score(self.psi(state, action, self.rng), x, k, self.rng)
        residual = self.diffusion.noise[k].unsqueeze(-1) * score + noise
        return residual.square().sum(-1).mean(-1)

    def score(self, psi: Tensor, x: Tensor, k: Tensor, rng: ReplicaRng | None = None) -> Tensor:
        """Score of noisy next latents `[R, B, latent]`; arguments as in `PixelZeta.forward`."""
        product = self.zeta(psi, x, k, rng)
        if self.config.divide_score:
            product = product / self.config.feature_dim
        if self.config.predict == "noise":
            product = -product / self.diffusion.noise[k].unsqueeze(-1)
        return product

    def values(self, state: Tensor, action: Tensor) -> Tensor:
        """Values `[R, 2, B]` that the critic learns from; dropout is on where psi learns too."""
        if self.config.critic_trains_features:
            return cast(Tensor, self.critic(self.psi(state, action, self.rng)))
        return cast(Tensor, self.critic(self.psi_target(state.detach(), action)))

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """n-step target `[R, B]` by averaged VAE, psi and critic."""
        state = self.states(batch.next_obs, self.vae_target)
        psi = self.psi_target(state, self.noisy(self.actor(state)))
        return bellman_target(batch, self.target(psi).amin(1), self.config.discount)

    def actor_loss(self, state: Tensor) -> Tensor:
        """Minus the smaller value of a noisy action, `[R]`; `state` has no graph."""
        psi = self.psi_target(state, self.noisy(self.actor(state)))
        return -self.critic(psi, frozen=True).amin(1).mean(-1)

    def actor_metrics(self, loss: Tensor) -> dict[str, Tensor]:
        """What is logged of the actor."""
        std = torch.full_like(loss.detach(), self.noise_std())
        return {"actor_loss": loss.detach(), "noise_std": std}

    def update_targets(self, rate: float) -> None:
        """Move the averages of VAE, psi and critic."""
        polyak_(self.vae_target, self.vae, rate)
        polyak_(self.psi_target, self.psi, rate)
        polyak_(self.target, self.critic, rate)

    # ------------------------------------------------------------ generation

    @torch.no_grad()
    def generate(self, obs: Tensor, action: Tensor, shown: int, rng: ReplicaRng) -> Tensor:
        """Draw next frames by the learned score, as images on the way from noise to a frame.

        Args:
            obs: stacks `[R, N, 3 * k, H, W]` uint8.
            action: `[R, N, A]` in [-1, 1].
            shown: images of one drawing, at least 2: the first is noise, the last the frame.
            rng: source of all noise.

        Returns:
            Frames `[R, N, shown, 3, H, W]` uint8.
        """
        latents = self.denoise(self.states(obs, self.vae), action, shown, rng)
        images = self.vae.decode(latents.flatten(1, 2)).unflatten(1, latents.shape[1:3])
        return ((images + 0.5) * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)

    @torch.no_grad()
    def denoise(self, state: Tensor, action: Tensor, shown: int, rng: ReplicaRng) -> Tensor:
        """Latents `[R, N, shown, latent]` on the way from noise to a next frame.

        The ancestral chain of Ho et al. 2020 (Algorithm 2) in terms of the score, which begins
        at standard normal noise whatever the last level is. `shown` latents are spread evenly
        over it, both ends included; see `shown_levels`.

        Args:
            state: latents of stacks `[R, N, S]`.
            action: `[R, N, A]`.
            shown: at least 2.
            rng: source of all noise.
        """
        d, psi = self.diffusion, self.psi(state, action)
        wanted = self.shown_levels(shown)
        x = rng.normal(state.shape[1], self.config.latent_dim)
        found = [x] * wanted.count(d.steps)
        for k in reversed(range(d.steps)):
            level = torch.full(x.shape[:2], k, device=self.device)
            score = self.score(psi, x, level)
            x = (x + self.betas[k] * score) / math.sqrt(1.0 - self.betas[k])
            if k > 0:
                x = x + d.std[k] * rng.normal(*x.shape[1:])
            x = x.clamp_(-self.LATENT_BOUND, self.LATENT_BOUND)
            found += [x] * wanted.count(k)
        return torch.stack(found, dim=2)

    def shown_levels(self, shown: int) -> list[int]:
        """Noise levels above a frame that `generate` shows: from the number of levels to 0."""
        levels = self.diffusion.steps
        return [round(levels * (shown - 1 - n) / (shown - 1)) for n in range(shown)]

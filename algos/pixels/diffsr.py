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

* Table 5 has other sizes and another rate of the critic (preset `paper`). Default: yaml. It is what
  the released code runs, the text contradicts itself on that rate, and an update costs half.
* A later refactor by one of the authors (typoverflow/spectral-rl2 `5b248fe`) predicts noise over
  50 levels, does not divide by d, has no dropout and cuts some gradients. Preset `refactored`:
  its switches, with the networks of this file.

Before it acts, the code makes 10,000 updates (5,000 of the VAE, then 5,000 of VAE and score) in one
call of `update`, hours on a CPU in which nothing can be saved. Here `pretrain_per_update` of them
are made whenever an update is due, and actions stay uniform until all are done, which the count of
steps tells. Preset `released`: all in the first call.

What differs from the code without an option: the VAE's convolutions start from orthogonal
weights, zeta has no average (the code only looks at it), the code's orthogonality loss, weight
0, is left out, and gradients are clipped together rather than per network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from algos.base.drq import DrQActor, DrQAgent, DrQConfig
from algos.parts.config import option
from algos.parts.diffusion import SCHEDULES, Diffusion
from algos.parts.optim import (
    adam,
    bellman_target,
    clone_frozen,
    critic_loss,
    per_replica_mean,
    polyak_,
    step,
)
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.spectral import LatentPsi, LatentZeta, NormSpectralCritic
from algos.parts.vision import FRAME, FrameVAE, join_frames, sample_normal, split_frames


@dataclass(frozen=True, kw_only=True)
class PixelDiffSRConfig(DrQConfig):
    """Options of Diff-SR on pixels; `code` in a sentence is haotiansun14/rl-rep, diffsrdrq.

    Those of DrQ-v2 have its code's values, which are the same there but for the trunk.
    """

    trunk_dim: int = option(512, "features behind the bottlenecks of actor and psi (code)", low=1)
    learning_rate: float = option(1e-4, "Adam of the actor (code)", low=0.0)
    critic_learning_rate: float = option(1e-4, "Adam of its heads (code; 3e-4 in Table 5)", low=0.0)
    vae_learning_rate: float = option(3e-4, "Adam of the VAE (code)", low=0.0)
    feature_learning_rate: float = option(3e-4, "AdamW of psi and zeta (code, Table 5)", low=0.0)
    weight_decay: float = option(0.01, "of that AdamW (code, by torch's default)", low=0.0)
    max_grad_norm: float = option(0.0, "of the joint gradient; 0 is none (code)", low=0.0)
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
    detach_next_latent: bool = option(False, "cut the score loss off the next latent (refactor)")
    critic_trains_features: bool = option(True, "let the critic train psi and VAE too (code)")
    pretrain_updates: int = option(10_000, "updates before the policy acts (code)", low=0)
    vae_pretrain_updates: int = option(5_000, "the first of them, for the VAE alone (code)", low=0)
    pretrain_per_update: int = option(20, "of them at a time (own choice; code: all)", low=1)


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

    LATENT_BOUND = 7.0  # of latents on the way from noise to a frame (code)

    def make_vision(self) -> None:
        """Share no encoder: the VAE encodes frame by frame."""

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, rng, shape, dtype = self.config, self.rng, self.spaces.obs_shape, self.dtype
        self.stack = shape[0] // FRAME
        state_dim, action_dim = self.stack * c.latent_dim, self.spaces.action_dim
        self.vae = FrameVAE(rng, shape[1:], c.latent_dim, dtype)
        self.psi = LatentPsi(rng, state_dim, action_dim, c)
        self.zeta = LatentZeta(rng, c)
        self.critic = NormSpectralCritic(rng, c.feature_dim, c.hidden, dtype)
        self.actor = DrQActor(rng, state_dim, action_dim, c.trunk_dim, c.hidden, dtype)
        self.vae_target = clone_frozen(self.vae)
        self.psi_target = clone_frozen(self.psi)
        self.target = clone_frozen(self.critic)
        features, rate = [*self.psi.parameters(), *self.zeta.parameters()], c.feature_learning_rate
        groups = [
            {"params": [*self.vae.parameters()], "lr": c.vae_learning_rate},
            {"params": features, "lr": rate, "weight_decay": c.weight_decay},
            {"params": [*self.critic.parameters()], "lr": c.critic_learning_rate},
        ]
        # One optimiser, since one loss trains them all; without decay AdamW is Adam.
        self.model_optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)
        self.diffusion = Diffusion(SCHEDULES[c.noise_schedule](c.noise_levels), self.device)
        self.shown_levels = self.diffusion.shown_levels
        # Updates come at every `update_every`-th step.
        pauses = math.ceil(c.pretrain_updates / c.pretrain_per_update)
        self.pretrain_end = c.random_steps + c.update_every * pauses

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Act on averaged latents; while exploring, uniformly until pre-training is over."""
        if explore and self.counters.steps < self.pretrain_end:
            return rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        return super().exploit(self.vae_target.states(obs), explore, rng)

    def learn(self) -> dict[str, Tensor]:
        """Do some pre-training, or one joint step, one of the actor, and the averages."""
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
        """Do the share of pre-training that is due at this step."""
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

    def joint_loss(self, batch: Batch, frame: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return what trains everything but the actor.

        Args:
            batch: of n steps, from `draw`.
            frame: the next frames `[R, B, 3, H, W]`, uint8.

        Returns:
            The loss `[R]`, metrics, and the means of the stacks `[R, B, S]` without graph.
        """
        losses, state, next_latent, mean = self.vae_losses(batch.obs, frame)
        score_loss = self.score_loss(state, batch.action, next_latent)
        q = self.values(mean, batch.action)
        td_loss = critic_loss(q, self.td_target(batch))
        # The mean of both heads: their share in the gradient of psi and VAE depends on it.
        loss = losses["reconstruction_loss"] + self.config.kl_weight * losses["kl"]
        loss = loss + score_loss + 0.5 * td_loss
        losses |= {"score_loss": score_loss, "critic_loss": td_loss, "q": per_replica_mean(q)}
        return loss, {name: value.detach() for name, value in losses.items()}, mean.detach()

    def vae_losses(
        self, stacks: Tensor, frame: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Return losses of the VAE, and what it makes of stacks and next frames.

        Returns:
            Both terms `[R]`, samples of the stacks `[R, B, S]` and of the next frames
            `[R, B, latent]`, and the means of the stacks.
        """
        frames = torch.cat([split_frames(stacks), frame], dim=1)
        mean, log_var = self.vae.encode(frames)
        latent = sample_normal(mean, log_var, self.rng)
        size = frame.shape[1]
        first = 0 if self.config.reconstruct == "all" else frames.shape[1] - size
        judged = (part[:, first:] for part in (frames, mean, log_var, latent))
        reconstruction, kl = self.vae.loss(*judged)
        state, next_latent = join_frames(latent[:, :-size], self.stack), latent[:, -size:]
        losses = {"reconstruction_loss": reconstruction, "kl": kl}
        return losses, state, next_latent, join_frames(mean[:, :-size], self.stack)

    def score_loss(self, state: Tensor, action: Tensor, next_latent: Tensor) -> Tensor:
        """Return the score-matching loss of the noisy next latent, `[R]` (eq. 18).

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
        """Return the score of noisy next latents, with arguments as in `LatentZeta.forward`."""
        product = self.zeta(psi, x, k, rng)
        if self.config.divide_score:
            product = product / self.config.feature_dim
        if self.config.predict == "noise":
            product = -product / self.diffusion.noise[k].unsqueeze(-1)
        return product

    def values(self, state: Tensor, action: Tensor) -> Tensor:
        """Return values `[R, 2, B]` for the critic to learn; dropout is on where psi learns too."""
        if self.config.critic_trains_features:
            return cast(Tensor, self.critic(self.psi(state, action, self.rng)))
        return cast(Tensor, self.critic(self.psi_target(state.detach(), action)))

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """Return the n-step target `[R, B]` by averaged VAE, psi and critic."""
        state = self.vae_target.states(batch.next_obs)
        psi = self.psi_target(state, self.noisy(self.actor(state)))
        return bellman_target(batch, self.target(psi).amin(1), self.config.discount)

    def actor_loss(self, state: Tensor) -> Tensor:
        """Return minus the smaller value of a noisy action, `[R]`; `state` has no graph."""
        psi = self.psi_target(state, self.noisy(self.actor(state)))
        return -self.critic(psi, frozen=True).amin(1).mean(-1)

    def update_targets(self, rate: float) -> None:
        """Move the averages of VAE, psi and critic."""
        polyak_(self.vae_target, self.vae, rate)
        polyak_(self.psi_target, self.psi, rate)
        polyak_(self.target, self.critic, rate)

    @torch.no_grad()
    def generate(self, obs: Tensor, action: Tensor, shown: int, rng: ReplicaRng) -> Tensor:
        """Draw next frames by the learned score, as images `[R, N, shown, 3, H, W]` uint8.

        Args:
            obs: stacks `[R, N, 3 * k, H, W]` uint8.
            action: `[R, N, A]` in [-1, 1].
            shown: images of one drawing, at least 2: the first is noise, the last the frame.
            rng: source of all noise.
        """
        latents = self.denoise(self.vae.states(obs), action, shown, rng)
        return self.vae.images(latents.flatten(1, 2)).unflatten(1, latents.shape[1:3])

    @torch.no_grad()
    def denoise(self, state: Tensor, action: Tensor, shown: int, rng: ReplicaRng) -> Tensor:
        """Draw latents `[R, N, shown, latent]` on the way to a next frame, from `[R, N, S]`."""
        score = partial(self.score, self.psi(state, action))
        noise = rng.normal(state.shape[1], self.config.latent_dim)
        return self.diffusion.draw_by_score(noise, score, shown, self.LATENT_BOUND, rng)

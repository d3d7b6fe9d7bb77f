"""muLV-Rep: LV-Rep from pixels, where a stack of frames stands for the history.

Zhang, Ren, Xiao, Schuurmans, Dai 2023, "Provable Representation with Efficient Planning for
Partially Observable Reinforcement Learning" (arXiv 2311.12244). With x the last few frames,
h = conv(shift(x)) their features and o' the next single frame, the latent variable model of
`algos.lvrep` becomes

    P(o', r | x, a) = ∫ p(z|x,a) p(o', r|z) dz,      Q(x, a) = E_{z ~ p(.|x,a)}[ w(z) ]

and one loss trains the convolutions, posterior q, prior p, decoder D and critic together:

    L_feature = w_f [ w_i |o' - D_o(z)| + (R - D_r(z))² + w_kl KL(q ‖ p) ]
    z = mean + std e,                      of q(.|h, a, conv'(o'))
    x_m = mean(h,a) + c std(h,a) e_m,      e_m ~ N(0, I),  drawn for each call
    g = mean_m relu(W1 x_m),               Q_i = w3ᵀ relu(W2 g)
    y = R + gamma^n min_i Q'_i(p'(conv_target(x_n), mu(x_n) + eps))
    L = L_feature + sum_i huber(Q_i - y)
    L_actor = -min_i Q_i(p(sg h, mu(sg h) + eps))

Mean and log std come from one linear map of (h, a), each through LayerNorm and the mean
through tanh too. Memory, policy, its noise and the shift are DrQ-v2's (`algos.base.drq`), and R is
its n-step return. Unlike there, convolutions and prior have target networks of their own.

Sizes, rates and all of the above are those of the authors' code, haotiansun14/rl-rep `d4dd78a`,
`agent/mulvdrq`. Where paper and code differ, and this file from the code:

* The theory predicts L frames ahead, code one, of which the image is not shifted. Here: code.
* The decoder predicts one frame but the reward of n steps. Here: code.
* Code scales the critic's noise by 0.1, so that Q is close to w(mean); the expectation is c = 1.
  Here: code; `noise_scale`.
* Before learning code makes one update of the autoencoder alone, from a loop that its options
  count to 0. Default: none; preset `released`: one.
* Code's decoder ends in images of 83 and a convolution of width 2 and padding 1; here, as in
  Diff-SR's, in 84 and a convolution of width 3, which fits every size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.base.drq import DrQActor, DrQAgent, DrQConfig
from algos.parts.config import option
from algos.parts.latent import GaussianLatent, LatentCritic
from algos.parts.layers import MLP, StackedLinear
from algos.parts.optim import adam, bellman_target, clone_frozen, per_replica_mean, polyak_, step
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.vision import FRAME, ConvDecoder, ConvEncoder, normalise


@dataclass(frozen=True, kw_only=True)
class MuLVRepConfig(DrQConfig):
    """Options of muLV-Rep; `code` in a sentence is haotiansun14/rl-rep, agent/mulvdrq.

    Those of DrQ-v2 have its code's values, which are the same there.
    """

    trunk_dim: int = option(100, "features behind the policy's trunk (code)", low=1)
    feature_dim: int = option(100, "coordinates of the latent (code)", low=1)
    noises: int = option(20, "noise vectors M of one call of the critic (code)", low=1)
    noise_scale: float = option(0.1, "factor c of that noise; 1 is LV-Rep's (code)", low=0.0)
    feature_weight: float = option(0.5, "weight w_f of the autoencoder's loss (code)", low=0.0)
    image_weight: float = option(10.0, "weight w_i of the image in it (code)", low=0.0)
    kl_weight: float = option(1.0, "weight w_kl of the KL in it (code)", low=0.0)
    critic_trains_features: bool = option(
        True, "let the critic train prior and convolutions too; else it reads the targets (code)"
    )
    pretrain_updates: int = option(
        0, "updates of the autoencoder alone before learning (code: 1, by an off-by-one)", low=0
    )


class LatentHead(nn.Module):
    """Raw parameters of a `GaussianLatent` by one linear map: LayerNorm, and tanh on the mean.

    Args:
        rng: where initial weights come from.
        fan_in: coordinates of all inputs together.
        dim: coordinates of the latent.
        dtype: arithmetic of the product.
    """

    def __init__(self, rng: ReplicaRng, fan_in: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = StackedLinear(rng, 1, fan_in, 2 * dim)
        zeros = torch.zeros_like(self.linear.bias).unflatten(-1, (2, dim))
        self.gain, self.bias = nn.Parameter(zeros + 1.0), nn.Parameter(zeros)
        self.dtype = dtype

    def forward(self, *inputs: Tensor, frozen: bool = False) -> Tensor:
        """Return mean and log std side by side, `[R, B, 2 * dim]` float32.

        Args:
            inputs: `[R, B, n]` each, joined in this order.
            frozen: pass gradients to the inputs only.
        """
        x = torch.cat([part.to(self.dtype) for part in inputs], dim=-1)
        gain, bias = (p.detach() if frozen else p for p in (self.gain, self.bias))
        h = self.linear(x, self.dtype, frozen).float().unflatten(-1, gain.shape[-2:])
        mean, log_std = (F.layer_norm(h, h.shape[-1:]) * gain + bias).unbind(-2)
        return torch.cat([torch.tanh(mean), log_std], dim=-1)


class FrameDecoder(nn.Module):
    """Latent to the next frame and the reward: two hidden layers that both share."""

    def __init__(
        self,
        rng: ReplicaRng,
        shape: tuple[int, ...],
        latent_dim: int,
        features: int,
        hidden: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.net = MLP(rng, 1, [latent_dim, hidden, hidden], dtype=dtype, out_dtype=dtype)
        self.widen = StackedLinear(rng, 1, hidden, features)
        self.picture = ConvDecoder(rng, shape, FRAME, dtype)
        self.reward = StackedLinear(rng, 1, hidden, 1)
        self.dtype = dtype

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames `[R, B, 3, H, W]` as x / 255 - 0.5 and rewards `[R, B, 1]`, float32."""
        h = F.relu(self.net(latent))
        return self.picture(self.widen(h, self.dtype)), self.reward(h)


class MuLVRep(DrQAgent):
    """Features of an autoencoder of frames, averaged critic, DrQ-v2's policy."""

    vision: ConvEncoder

    title = "muLV-Rep"
    paper = "Zhang et al. 2023, Provable Representation with Efficient Planning, arXiv 2311.12244"
    Config = MuLVRepConfig
    config: MuLVRepConfig
    presets = {
        "released": {"precision": "float32", "pretrain_updates": 1},
        "quick": {
            "feature_dim": 50,
            "trunk_dim": 50,
            "noises": 8,
            "hidden": 256,
            "batch_size": 32,
            "noise_steps": 5_000,
        },
    }

    def make_vision(self) -> ConvEncoder:
        """Make the convolutions alone, as in DrQ-v2."""
        return ConvEncoder(self.rng, self.spaces.obs_shape, self.dtype)

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, rng, shape = self.config, self.rng, self.spaces.obs_shape
        action_dim, dtype = self.spaces.action_dim, self.dtype
        read = self.obs_dim + action_dim
        self.latent = GaussianLatent(c.feature_dim)
        self.frame_encoder = ConvEncoder(rng, (FRAME, *shape[1:]), dtype)
        self.posterior = LatentHead(rng, read + self.frame_encoder.dim, c.feature_dim, dtype)
        self.prior = LatentHead(rng, read, c.feature_dim, dtype)
        self.decoder = FrameDecoder(rng, shape, c.feature_dim, self.obs_dim, c.hidden, dtype)
        self.critic = LatentCritic(rng, self.latent, 0, c.hidden, dtype, False, "relu")
        self.actor = DrQActor(rng, self.obs_dim, action_dim, c.trunk_dim, c.hidden, dtype)
        self.vision_target = clone_frozen(self.vision)
        self.prior_target = clone_frozen(self.prior)
        self.target = clone_frozen(self.critic)
        parts = (self.frame_encoder, self.posterior, self.prior, self.decoder, self.critic)
        self.optimizer = adam(self.with_vision(*parts), c.learning_rate)
        self.actor_optimizer = adam(self.actor.parameters(), c.learning_rate)

    def learn(self) -> dict[str, Tensor]:
        """Do one joint step of autoencoder and critic, one of the actor, then the targets."""
        if self.counters.updates == 1:
            for _ in range(self.config.pretrain_updates):
                self.pretrain()
        batch, frame = self.draw()
        metrics = self.update_critic(batch, frame) | self.update_actor(batch.obs.detach())
        self.move_targets(self.config.tau)
        return metrics

    def pretrain(self) -> None:
        """Do one step of the autoencoder, one of the actor; targets of the features are copies."""
        batch, frame = self.draw()
        _, losses = self.feature_losses(batch, frame)
        step(self.optimizer, losses["feature_loss"].sum())
        self.move_targets(1.0)
        self.update_actor(batch.obs.detach())

    def move_targets(self, rate: float) -> None:
        """Let convolutions, prior and critic of the targets follow."""
        polyak_(self.vision_target, self.vision, rate)
        polyak_(self.prior_target, self.prior, rate)
        polyak_(self.target, self.critic, rate)

    def draw(self) -> tuple[Batch, Tensor]:
        """Draw a batch that holds features of shifted stacks, and the next frames as they are.

        Returns:
            `obs` passes gradients on to `vision`, `next_obs` is the target's; the frames one
            step on are uint8 `[R, B, 3, H, W]`.
        """
        batch, frame = super().draw()
        obs, next_obs = self.vision(batch.obs), self.vision_target(batch.next_obs)
        return batch._replace(obs=obs, next_obs=next_obs), frame

    def feature_losses(self, batch: Batch, frame: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss on what `draw` gave.

        Returns:
            The prior of each row, raw, and L_feature with its unweighted terms, `[R]` each.
        """
        c = self.config
        p = self.prior(batch.obs, batch.action)
        q = self.posterior(batch.obs, batch.action, self.frame_encoder(frame))
        posterior = self.latent.read(q)
        image, reward = self.decoder(self.latent.sample(posterior, self.rng))
        image_loss = per_replica_mean((image - normalise(frame, torch.float32)).abs())
        reward_loss = per_replica_mean((reward - batch.reward).square())
        kl = self.latent.kl(posterior, self.latent.read(p))
        total = c.feature_weight * (c.image_weight * image_loss + reward_loss + c.kl_weight * kl)
        parts = {"image_loss": image_loss, "reward_loss": reward_loss, "kl": kl}
        return p, {"feature_loss": total} | parts

    def noise(self) -> Tensor:
        """Return scaled noise vectors `[R, M, dim]` of one call of the critic."""
        return self.config.noise_scale * self.rng.normal(self.config.noises, self.latent.dim)

    def features(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return p(.|x, a), raw `[R, B, 2 * dim]`; gradients reach the inputs only."""
        return self.prior(obs, action, frozen=True)

    def bellman(self, batch: Batch) -> Tensor:
        """Return the targets y `[R, B]`."""
        with torch.no_grad():
            action = self.noisy(self.actor(batch.next_obs))
            feature = self.prior_target(batch.next_obs, action)
            value = self.target(feature, noise=self.noise()).amin(1)
            return bellman_target(batch, value, self.config.discount)

    def update_critic(self, batch: Batch, frame: Tensor) -> dict[str, Tensor]:
        """Do one Adam step on L; the critic's part trains prior and convolutions as well."""
        prior, losses = self.feature_losses(batch, frame)
        y = self.bellman(batch)
        if not self.config.critic_trains_features:
            prior = self.prior_target(batch.obs.detach(), batch.action)
        q = self.critic(prior, noise=self.noise())
        error = F.smooth_l1_loss(q, y[:, None].expand_as(q), reduction="none")
        losses["critic_loss"] = error.mean(-1).sum(-1)
        step(self.optimizer, (losses["critic_loss"] + losses["feature_loss"]).sum())
        metrics = {name: loss.detach() for name, loss in losses.items()}
        return metrics | {"q": per_replica_mean(q.detach())}

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Raise the smaller value of the noisy action; `obs` are fixed features."""
        feature = self.features(obs, self.noisy(self.actor(obs)))
        loss = -self.critic(feature, frozen=True, noise=self.noise()).amin(1).mean(-1)
        step(self.actor_optimizer, loss.sum())
        return self.actor_metrics(loss)

"""LV-Rep: latent variable representation for fully observed tasks.

Ren, Xiao, Zhang, Li, Wang, Sanghavi, Schuurmans, Dai 2022, "Latent Variable Representation
for Reinforcement Learning" (arXiv 2212.08765). The transition is a latent variable model,

    P(s'|s,a) = ∫ p(z|s,a) p(s'|z) dz

so that every value is linear in the feature p(.|s,a): Q(s,a) = E_{z ~ p(.|s,a)}[ w(z) ].
A variational autoencoder with encoder q(z|s,a,s') and prior p(z|s,a) learns the feature.
With n state coordinates and d latent variables one batch gives the loss

    L = |s' - D_s(z)|² / 2n + (r - D_r(z))² / 2 + w KL(q ‖ p) / d,      z ~ q

which is w / d times the negative evidence bound of a decoder with variance w n / d for
states and w / d for rewards: what varies less than that is not represented.

The critic takes the expectation over M noise vectors e_m ~ N(0, I), drawn once per run and
kept, and reads a slow copy of the prior that its gradient never reaches:

    x_m = mean(s,a) + std(s,a) e_m,      h = mean_m elu(W1 x_m),      Q = w3ᵀ elu(W2 h)

A soft actor-critic sits on top. Sizes, rates and all of the above but the model itself are
those of the authors' code, haotiansun14/rl-rep `d4dd78a` (2024-10-02, HEAD); its first
upload is haotiansun14/lvrep-rl `9353c92` (2023-02-07). Each reading is an option below:

* In both uploads the second critic uses the last layer of the first and its own is never
  trained. Default: each has its own. Presets `released` (HEAD) and `uploaded` (9353c92).
* One action in a hundred is uniform in HEAD, none in 9353c92. Default: HEAD, like Diff-SR's.
* The discrete latent of the paper, LV-Rep-D, is one unfinished file that no agent uses
  (`networks/disvae.py`): 16 one-hot vectors of 16 classes, sampled straight-through, and the
  probabilities as feature. Where the file ends, `latent=discrete` here follows the
  continuous case: KL averaged over the 16 vectors, and the same critic, which reads the
  probabilities as its only point x_1.
* The abstract's exploration bonus is in neither code; none here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.networks import (
    ACTIVATIONS,
    MLP,
    GaussianActor,
    StackedLinear,
    Temperature,
    epsilon_greedy,
    orthogonal_init,
)
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


@dataclass(frozen=True, kw_only=True)
class LVRepConfig(OffPolicyConfig):
    """Options of LV-Rep; `code` in a sentence is haotiansun14/rl-rep."""

    random_steps: int = option(25_000, "uniform random actions before learning (code)", low=0)
    latent: str = option(
        "continuous",
        "latent variable: continuous (LV-Rep-C) or discrete (LV-Rep-D)",
        choices=("continuous", "discrete"),
    )
    feature_dim: int = option(256, "coordinates of the continuous latent (code)", low=1)
    categories: int = option(16, "one-hot vectors of the discrete latent (code)", low=1)
    classes: int = option(16, "classes of each one-hot vector (code)", low=2)
    feature_updates: int = option(4, "updates of the autoencoder per step (code)", low=1)
    feature_hidden: int = option(256, "width of encoder, prior and decoder (code)", low=1)
    feature_learning_rate: float = option(1e-4, "Adam of the autoencoder (code)", low=0.0)
    feature_tau: float = option(
        0.001, "rate of the target prior; 1 reads the prior itself (code)", low=0.0, high=1.0
    )
    kl_weight: float = option(1.0, "weight w of the KL term (code)", low=0.0)
    noises: int = option(20, "noise vectors M of the critic, continuous latent (code)", low=1)
    shared_head: bool = option(False, "one last layer for both critics (a fault of the code)")
    hidden: int = option(256, "width of actor and critic layers (code)", low=1)
    learning_rate: float = option(1e-4, "Adam of actor, critic, temperature (code)", low=0.0)
    initial_temperature: float = option(0.1, "entropy weight at the start (code)", low=1e-8)
    epsilon_greedy: float = option(
        0.01, "chance of a uniform random action while exploring (code)", low=0.0, high=1.0
    )
    target_every: int = option(2, "steps between updates of the target critic (code)", low=1)


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


class _GaussianKL(torch.autograd.Function):
    """KL between normal coordinates, averaged over all but replicas, with its gradient by hand.

    With r = log(std_q / std_p) and g = (mean_q - mean_p) / std_p each coordinate has
    (e^2r + g² - 1) / 2 - r. A feature update is a sixth faster than by autograd (measured).
    """

    @staticmethod
    def forward(ctx: Any, mean_q: Tensor, log_q: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
        log_ratio, inverse = log_q - log_p, (-log_p).exp_()
        gap, ratio = (mean_q - mean_p).mul_(inverse), (2.0 * log_ratio).exp_()
        ctx.save_for_backward(gap, inverse, ratio)
        return per_replica_mean(torch.addcmul(ratio, gap, gap).mul_(0.5).sub_(log_ratio)) - 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gap, inverse, ratio = ctx.saved_tensors
        scale = (grads[0] / gap[0].numel())[:, None, None]
        to_mean, to_log = (gap * inverse).mul_(scale), (ratio - 1.0).mul_(scale)
        return to_mean, to_log, -to_mean, -torch.addcmul(to_log, gap * gap, scale)


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
        return cast(Tensor, _GaussianKL.apply(*q, *p))

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
        """A one-hot sample with the gradient of the probabilities (straight-through)."""
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
        """The probabilities, one point for all of the distribution."""
        (logits,) = distribution
        return logits.softmax(-1).flatten(-2).unsqueeze(2)


class _MeanElu(torch.autograd.Function):
    """Mean of elu(x) over the points of x `[R, B, M, H]`, `[R, B, H]` float32; x is overwritten.

    elu(x) = max(x, 0) + min(e^x, 1) - 1, whose exponential is also its slope: the only thing to
    keep. The sum over the points is a product with ones, which adds up in float32 without a
    wider copy of all terms. With torch's own elu and mean an update costs a tenth more (measured).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        points = x.shape[2]
        slope = x.exp().clamp_(max=1.0)
        ctx.save_for_backward(slope)
        terms = x.clamp_(min=0.0).add_(slope).flatten(0, 1)
        ones = x.new_ones(1, 1, points).expand(terms.shape[0], 1, points)
        # The -1 of each term goes in before the sum is rounded, lest its digits cancel.
        total = torch.baddbmm(x.new_full((1, 1, 1), -points), ones, terms)
        return total.float().div_(points).view(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return (grads[0] / slope.shape[2]).to(slope.dtype).unsqueeze(2) * slope


def mean_elu(x: Tensor) -> Tensor:
    """Mean of elu over axis 2 of `[R, B, M, H]`, with gradients; overwrites `x`."""
    return cast(Tensor, _MeanElu.apply(x))


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


class LVRep(OffPolicyAgent):
    """LV-Rep on states: features of an autoencoder, averaged critic, soft actor-critic."""

    title = "LV-Rep"
    paper = "Ren et al. 2022, Latent Variable Representation for RL, arXiv 2212.08765"
    Config = LVRepConfig
    presets = {
        "released": {"shared_head": True, "precision": "float32"},
        "uploaded": {"shared_head": True, "epsilon_greedy": 0.0, "precision": "float32"},
        "quick": {
            "feature_updates": 1,
            "feature_dim": 64,
            "categories": 8,
            "classes": 8,
            "feature_hidden": 128,
            "noises": 8,
            "hidden": 128,
            "batch_size": 128,
        },
    }

    def build(self) -> None:
        """See `OffPolicyAgent.build`."""
        c, rng, obs_dim, action_dim = self.config, self.rng, self.obs_dim, self.spaces.action_dim
        dtype = self.dtype
        discrete, width = c.latent == "discrete", c.feature_hidden
        self.latent = (
            DiscreteLatent(c.categories, c.classes) if discrete else GaussianLatent(c.feature_dim)
        )

        def net(*sizes: int) -> MLP:
            return MLP(rng, 1, sizes, dtype=dtype, out_dtype=dtype)

        self.encoder = net(2 * obs_dim + action_dim, width, width, self.latent.outputs)
        self.prior = net(obs_dim + action_dim, width, width, self.latent.outputs)
        self.decoder = net(self.latent.dim, *[width] * self.latent.decoder_layers, obs_dim + 1)
        self.prior_target = clone_frozen(self.prior)
        noises = 0 if discrete else c.noises
        self.critic = LatentCritic(rng, self.latent, noises, c.hidden, dtype, c.shared_head)
        self.target = clone_frozen(self.critic)
        self.actor = GaussianActor(
            rng, obs_dim, action_dim, [c.hidden, c.hidden], "elu", dtype, orthogonal_init
        )
        self.temperature = Temperature(self.replicas, c.initial_temperature, self.device)
        self.target_entropy = -float(action_dim)
        autoencoder = nn.ModuleList([self.encoder, self.prior, self.decoder])
        self.feature_optimizer = adam(autoencoder.parameters(), c.feature_learning_rate)
        self.critic_optimizer = adam(self.critic.parameters(), c.learning_rate)
        # One optimiser for both: no weight of one loss is in the other.
        self.actor_optimizer = adam(
            [*self.actor.parameters(), *self.temperature.parameters()], c.learning_rate
        )

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Mean action in evaluation; a sample, or now and then a uniform action, otherwise."""
        if not explore:
            return self.actor.mean_action(obs)
        return epsilon_greedy(self.actor.sample(obs, rng)[0], self.config.epsilon_greedy, rng)

    def phase(self) -> bool:
        """Whether the target critic moves at this update."""
        return self.counters.updates % self.config.target_every == 0

    def learn(self) -> dict[str, Tensor]:
        """Feature updates on fresh batches, then the rest on the last of them."""
        for batch in self.sample(self.config.feature_updates):
            metrics = self.update_features(batch)
            polyak_(self.prior_target, self.prior, self.config.feature_tau)
        metrics |= self.update_critic(batch) | self.update_actor(batch.obs)
        if self.phase():
            polyak_(self.target, self.critic, self.config.tau)
        return metrics

    def feature_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of L on one batch, `[R]` each, and their sum `feature_loss`."""
        inputs = torch.cat([batch.obs, batch.action, batch.next_obs], dim=-1)
        q = self.latent.read(self.encoder(inputs).float())
        p = self.latent.read(self.prior(inputs[..., : -self.obs_dim]).float())
        decoded = self.decoder(self.latent.sample(q, self.rng)).float()
        next_obs, reward = decoded.split([self.obs_dim, 1], dim=-1)
        state_loss = 0.5 * per_replica_mean((next_obs - batch.next_obs).square())
        reward_loss = 0.5 * per_replica_mean((reward - batch.reward).square())
        kl = self.latent.kl(q, p)
        total = state_loss + reward_loss + self.config.kl_weight * kl
        parts = {"state_loss": state_loss, "reward_loss": reward_loss, "kl": kl}
        return {"feature_loss": total} | parts

    def update_features(self, batch: Batch) -> dict[str, Tensor]:
        """One Adam step of encoder, prior and decoder."""
        losses = self.feature_losses(batch)
        step(self.feature_optimizer, losses["feature_loss"].sum())
        return {name: loss.detach() for name, loss in losses.items()}

    def features(self, obs: Tensor, action: Tensor) -> Tensor:
        """p(.|s, a) of the target prior, raw `[R, B, outputs]`; gradients reach inputs only."""
        return self.prior_target(torch.cat([obs, action], dim=-1))

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Soft Bellman regression of both values on fixed features.

        The target prior serves both states.
        """
        with torch.no_grad():
            action, log_prob = self.actor.sample(batch.next_obs, self.rng)
            obs = torch.cat([batch.obs, batch.next_obs], dim=1)
            both = self.features(obs, torch.cat([batch.action, action], dim=1))
            feature, next_feature = both.chunk(2, dim=1)
            soft = self.temperature.value()[:, None] * log_prob
            value = self.target(next_feature).amin(1) - soft
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(feature)
        loss = critic_loss(q, y)
        step(self.critic_optimizer, loss.sum())
        return {"critic_loss": loss.detach(), "q": per_replica_mean(q.detach())}

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Improve the policy through the target prior and the critic; adapt the temperature."""
        action, log_prob = self.actor.sample(obs, self.rng)
        q = self.critic(self.features(obs, action), frozen=True).amin(1)
        total, metrics = self.temperature.soft_policy_loss(q, log_prob, self.target_entropy)
        step(self.actor_optimizer, total)
        return metrics

    def components(self) -> dict[str, Any]:
        """See `Agent.components`."""
        return super().components() | {
            "encoder": self.encoder,
            "prior": self.prior,
            "decoder": self.decoder,
            "prior_target": self.prior_target,
            "critic": self.critic,
            "target": self.target,
            "actor": self.actor,
            "temperature": self.temperature,
            "feature_optimizer": self.feature_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }

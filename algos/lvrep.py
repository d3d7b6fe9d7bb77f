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

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.heads import GaussianActor, Temperature, epsilon_greedy
from algos.parts.latent import DiscreteLatent, GaussianLatent, LatentCritic
from algos.parts.layers import MLP, orthogonal_init
from algos.parts.optim import (
    adam,
    bellman_target,
    clone_frozen,
    fit_critic,
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


class LVRep(OffPolicyAgent):
    """LV-Rep on states: features of an autoencoder, averaged critic, soft actor-critic."""

    title = "LV-Rep"
    paper = "Ren et al. 2022, Latent Variable Representation for RL, arXiv 2212.08765"
    Config = LVRepConfig
    config: LVRepConfig
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
        return fit_critic(self.critic_optimizer, q, y)

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Improve the policy through the target prior and the critic; adapt the temperature."""
        action, log_prob = self.actor.sample(obs, self.rng)
        q = self.critic(self.features(obs, action), frozen=True).amin(1)
        total, metrics = self.temperature.soft_policy_loss(q, log_prob, self.target_entropy)
        step(self.actor_optimizer, total)
        return metrics

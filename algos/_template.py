"""A worked example: copy this file to `algos/<name>.py` and change it step by step.

A file here without a leading underscore that defines one concrete `Agent` is the
algorithm `<name>`; nothing is registered anywhere. The copy runs as it stands:

    cp algos/_template.py algos/mine.py
    python -m runners.check --algo mine           # every rule of the interface
    python -m runners.sweep --algos sac,mine      # beside SAC, on equal terms

The example is DDPG (Lillicrap et al. 2015, "Continuous control with deep reinforcement
learning", arXiv 1509.02971, Algorithm 1). Begin your file like this, with the paper and
the equations that the code below goes through line after line:

    Q target  y = r + gamma (1 - end) Q'(s', mu'(s'))
    critic    E[ (Q(s, a) - y)² ]
    actor     E[ -Q(s, mu(s)) ]
    targets   theta' <- tau theta + (1 - tau) theta'

Where text and released code disagree, say so here and make each reading an option. This
example explores with independent Gaussian noise, as later work does, where the paper has
a correlated process, and leaves out the paper's batch normalisation and weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.layers import MLP, SampleMLP
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
class TemplateConfig(OffPolicyConfig):
    """Options: `--set name=value`. Each has a sentence with the source of its default."""

    hidden: int = option(256, "width of the two hidden layers (paper: 400 and 300)", low=1)
    actor_learning_rate: float = option(1e-4, "Adam of the actor (paper)", low=0.0)
    critic_learning_rate: float = option(1e-3, "Adam of the critic (paper)", low=0.0)
    exploration_noise: float = option(0.1, "std added to actions while exploring", low=0.0)


class TemplateAgent(OffPolicyAgent):
    """DDPG: a deterministic policy that climbs the value of one critic."""

    # Class facts, read by the runner, the checks and the docs. `observation_kinds` and
    # `max_replicas` have defaults in `Agent`; set `max_replicas = 1` if yours takes one seed.
    title = "Template"  # the name in tables and figures
    paper = "Lillicrap et al. 2015, Continuous control with deep RL, arXiv 1509.02971"
    Config = TemplateConfig
    config: TemplateConfig  # so that mypy knows the names of the options
    presets = {
        # `released`: the authors' code with its faults, named with its commit. DDPG's authors
        # released none, so these are the numbers of the paper's section 7. A preset lists
        # only what differs from the defaults.
        "released": {"batch_size": 64, "tau": 0.001, "precision": "float32"},
        # `quick`: the same algorithm at a cost that lets a laptop run every task. Its
        # results are marked as reduced and never stand beside published numbers.
        "quick": {"hidden": 128, "batch_size": 128},
    }
    # Options that the authors tuned per task, by task id, with their source beside them.
    task_overrides = {}

    def build(self) -> None:
        """Make networks and optimisers (see `OffPolicyAgent.build`)."""
        c, obs_dim, action_dim = self.config, self.obs_dim, self.spaces.action_dim
        dtype, hidden = self.dtype, [c.hidden, c.hidden]
        # Checkpoints hold every attribute with `state_dict` and `load_state_dict`: networks,
        # optimisers, or something of your own with both (running statistics, a second memory).
        # Nothing is declared, but what changes the future has to be such an attribute.
        # Initial weights come from `self.rng`, never from `nn.Linear`, which draws from
        # torch's global generator: a seed must give the same run alone and in a group.
        self.actor = MLP(self.rng, 1, [obs_dim, *hidden, action_dim], dtype=dtype)
        self.critic = SampleMLP(self.rng, 1, obs_dim, [action_dim, *hidden, 1], dtype=dtype)
        self.actor_target = clone_frozen(self.actor)
        self.critic_target = clone_frozen(self.critic)
        self.actor_optimizer = adam(self.actor.parameters(), c.actor_learning_rate)
        self.critic_optimizer = adam(self.critic.parameters(), c.critic_learning_rate)

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return the policy's action, with noise while exploring; the caller clamps to [-1, 1]."""
        action = torch.tanh(self.actor(obs))
        if not explore:
            return action
        # Noise comes from the `rng` handed in: evaluation has a stream of its own, so
        # that how often one evaluates never changes what is learned.
        return action + self.config.exploration_noise * rng.normal(*action.shape[1:])

    def learn(self) -> dict[str, Tensor]:
        """Learn what one environment step pays for. Nothing here waits for the host: no `.item()`.

        What happens at every k-th update only goes by `self.counters`, which is part of the
        state: a resumed run keeps the rhythm (`algos/td3.py` delays its actor that way).
        """
        (batch,) = self.sample()
        metrics = self.update_critic(batch) | self.update_actor(batch.obs)
        polyak_(self.critic_target, self.critic, self.config.tau)
        polyak_(self.actor_target, self.actor, self.config.tau)
        return metrics  # the same names at every update, `[R]` each

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Regress the critic onto the value of the target policy's action."""
        with torch.no_grad():
            action = torch.tanh(self.actor_target(batch.next_obs))
            value = self.critic_target(batch.next_obs, action)[..., 0]
            # `not_terminal` is 0 where the task ended and 1 at a time limit, which bootstraps.
            y = bellman_target(batch, value, self.config.discount)
        q = self.critic(batch.obs, batch.action)[..., 0]
        return fit_critic(self.critic_optimizer, q[:, None], y)  # one head of `[R, heads, B]`

    def update_actor(self, obs: Tensor) -> dict[str, Tensor]:
        """Raise the critic's value; `frozen` spares the critic's own gradients."""
        q = self.critic(obs, torch.tanh(self.actor(obs)), frozen=True)
        # Mean within a replica, sum over replicas (`loss.sum()`): then the gradient of
        # one seed does not depend on how many others are trained beside it.
        loss = -per_replica_mean(q)
        step(self.actor_optimizer, loss.sum())
        return {"actor_loss": loss.detach()}

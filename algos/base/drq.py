"""Share what DrQ-v2 and its kin have: n-step returns and a noisy policy on pixels.

Yarats et al. 2021, "Mastering Visual Continuous Control: Improved Data-Augmented
Reinforcement Learning" (arXiv 2107.09645); facebookresearch/drqv2 c0c650b. The policy is
tanh of a network plus normal noise whose standard deviation falls linearly over time; in
targets and in the policy loss that noise is clipped. muLV-Rep and Diff-SR on pixels keep all
of this and change the critic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.frames import FrameReplay
from algos.parts.layers import MLP, orthogonal_init
from algos.parts.replay import Batch
from algos.parts.rng import ReplicaRng
from algos.parts.vision import Trunk, random_shift

EDGE = 1e-6  # distance that noisy actions keep from the bounds (code)


@dataclass(frozen=True, kw_only=True)
class DrQConfig(OffPolicyConfig):
    """Options of DrQ-v2 and its kin; `code` in a sentence is facebookresearch/drqv2.

    Steps are agent steps: with an action repeat of 2 one is two frames.
    """

    random_steps: int = option(2_000, "uniform random actions before learning (code)", low=0)
    tau: float = option(0.01, "rate of the target networks (code)", low=0.0, high=1.0)
    n_step: int = option(3, "steps of a return (code; 1 for the walker tasks)", low=1)
    update_every: int = option(2, "steps for one update (code)", low=1)
    trunk_dim: int = option(50, "features behind a trunk (code; 100 for humanoid)", low=1)
    hidden: int = option(1024, "width of the two hidden layers (code)", low=1)
    learning_rate: float = option(1e-4, "Adam of actor and critic (code)", low=0.0)
    noise_start: float = option(1.0, "std of actions at the start (code)", low=0.0)
    noise_end: float = option(0.1, "std of actions at last (code)", low=0.0)
    noise_steps: int = option(
        500_000, "steps from one to the other (code: 100,000, 500,000 or 2,000,000 by task)", low=1
    )
    noise_clip: float = option(0.3, "bound of the noise while learning (code)", low=0.0)


class DrQActor(nn.Module):
    """Trunk, two hidden layers, tanh: the mean action."""

    def __init__(
        self,
        rng: ReplicaRng,
        feature_dim: int,
        action_dim: int,
        trunk_dim: int,
        hidden: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(rng, feature_dim, trunk_dim, dtype)
        sizes = [trunk_dim, hidden, hidden, action_dim]
        self.net = MLP(rng, 1, sizes, dtype=dtype, init=orthogonal_init)

    def forward(self, features: Tensor) -> Tensor:
        """Mean action `[R, B, A]` for features `[R, B, feature_dim]`."""
        return torch.tanh(self.net(self.trunk(features)))


class DrQAgent(OffPolicyAgent):
    """An agent for pixels with DrQ-v2's memory, policy noise and rhythm of updates.

    A subclass makes `self.actor`, a module from features to mean actions, in `build`.
    """

    config: DrQConfig
    observation_kinds = ("pixels",)
    actor: nn.Module

    def make_replay(self) -> FrameReplay:
        """Frames with n-step returns."""
        c = self.config
        return FrameReplay(
            self.spaces,
            self.replicas,
            c.replay_capacity,
            self.device,
            c.discount,
            c.n_step,
            c.time_limit_terminal,
        )

    def update(self) -> dict[str, Tensor]:
        """See `Agent.update`; learns at every `update_every`-th step."""
        drawable = len(self.replay) > 0  # a window of n steps takes n steps
        if not drawable or self.counters.steps % self.config.update_every:
            return {}
        return super().update()

    def exploit(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Return the mean action, with noise while exploring."""
        mean = self.actor(obs)
        return mean + self.noise_std() * rng.normal(*mean.shape[1:]) if explore else mean

    def noise_std(self) -> float:
        """Return the standard deviation of the policy's noise at this step."""
        c = self.config
        share = min(1.0, self.counters.steps / c.noise_steps)
        return c.noise_start + share * (c.noise_end - c.noise_start)

    def noisy(self, mean: Tensor) -> Tensor:
        """Actions with clipped noise; the gradient passes as if nothing had been cut off."""
        noise = self.noise_std() * self.rng.normal(*mean.shape[1:])
        clip = self.config.noise_clip
        action = mean + noise.clamp_(-clip, clip)
        cut = action.detach().clamp(-1.0 + EDGE, 1.0 - EDGE) - action.detach()
        return action + cut

    def draw(self) -> tuple[Batch, Tensor]:
        """Draw a batch whose stacks are shifted at random, and the frames one step on as they are.

        Returns:
            The batch, of n steps, and uint8 frames `[R, B, 3, H, W]`.
        """
        index = self.replay.draw(self.config.batch_size, self.rng)
        batch = self.replay.batch(index)
        shifted = {k: random_shift(getattr(batch, k), self.rng) for k in ("obs", "next_obs")}
        return batch._replace(**shifted), self.replay.frames(index, 1)

    def actor_metrics(self, loss: Tensor) -> dict[str, Tensor]:
        """Return what is logged of an actor's loss `[R]`."""
        std = torch.full_like(loss.detach(), self.noise_std())
        return {"actor_loss": loss.detach(), "noise_std": std}

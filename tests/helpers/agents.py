"""A tiny agent that meets every rule, and agents that each break one.

The good one is a random linear policy with linear TD(0), as in Sutton and Barto's book and
many a repository, for example github.com/ShangtongZhang/reinforcement-learning-an-introduction.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from algos.base.offpolicy import OffPolicyAgent, OffPolicyConfig
from algos.parts.config import option
from algos.parts.layers import StackedLinear
from algos.parts.optim import adam, step
from algos.parts.types import Transition


@dataclass(frozen=True, kw_only=True)
class TinyConfig(OffPolicyConfig):
    rate: float = option(1e-2, "Adam of the value", low=0.0)


class Tiny(OffPolicyAgent):
    title = "Tiny"
    paper = "Sutton 1988, Learning to predict by the methods of temporal differences"
    Config = TinyConfig
    presets: ClassVar = {"quick": {}}

    def build(self):
        self.actor = StackedLinear(self.rng, 1, self.obs_dim, self.spaces.action_dim)
        self.value = StackedLinear(self.rng, 1, self.obs_dim, 1)
        self.optimizer = adam(self.value.parameters(), self.config.rate)

    def exploit(self, obs, explore, rng):
        mean = torch.tanh(self.actor(obs))
        return mean + 0.3 * rng.normal(*mean.shape[1:]) if explore else mean

    def learn(self):
        (batch,) = self.sample()
        return self.regress(batch)

    def regress(self, batch):
        with torch.no_grad():
            target = batch.reward + self.config.discount * batch.not_terminal * self.value(
                batch.next_obs
            )
        loss = (self.value(batch.obs) - target).square().flatten(1).mean(1)
        step(self.optimizer, loss.sum())
        return {"loss": loss.detach()}


class TooLarge(Tiny):
    def act(self, obs, explore):
        return 2.0 * super().act(obs, explore)


class Doubles(Tiny):
    def act(self, obs, explore):
        return super().act(obs, explore).astype(np.float64)


class Flat(Tiny):
    def act(self, obs, explore):
        return super().act(obs, explore)[0]


class Overflows(Tiny):
    def act(self, obs, explore):
        return np.where(np.abs(obs.mean()) > 100.0, np.float32("nan"), super().act(obs, explore))


class Unseeded(Tiny):
    def exploit(self, obs, explore, rng):
        noise = np.random.default_rng().standard_normal(self.spaces.action_dim)
        return super().exploit(obs, explore, rng) + torch.as_tensor(noise, dtype=torch.float32)


class OneSeedForAll(Tiny):
    def __init__(self, spaces, config, seeds, device="cpu"):
        super().__init__(spaces, config, [0] * len(seeds), device)


class ForgetsOptimizer(Tiny):
    def components(self):
        parts = super().components()
        del parts["optimizer"]
        return parts


class HidesItsPolicy(Tiny):
    def components(self):
        parts = super().components()
        return {("memory" if name == "actor" else name): part for name, part in parts.items()}


class MixesReplicas(Tiny):
    def regress(self, batch):
        return super().regress(batch._replace(reward=batch.reward - batch.reward.mean(0)))


class KeepsArrays(Tiny):
    """Stores a transition only when the next one comes."""

    last = None

    def observe(self, transition):
        super().observe(self.last or copy.deepcopy(transition))
        self.last = transition


class CentresObservations(Tiny):
    def act(self, obs, explore):
        obs -= obs.mean()
        return super().act(obs, explore)


class ScalesRewards(Tiny):
    def observe(self, transition):
        transition.reward[...] *= 0.1
        super().observe(transition)


class IgnoresEnds(Tiny):
    def observe(self, transition):
        never = np.zeros_like(transition.terminated)
        super().observe(dataclasses.replace(transition, terminated=never, truncated=never))


class EndsAtTimeLimits(Tiny):
    def observe(self, transition: Transition):
        # A third kind of step, so that the two endings still differ.
        reward = np.where(transition.truncated, 0.0, transition.reward).astype(np.float32)
        super().observe(dataclasses.replace(transition, reward=reward))


class DropsTheOption(Tiny):
    def observe(self, transition):
        never = np.zeros_like(transition.truncated)
        super().observe(dataclasses.replace(transition, truncated=never))


class ReadsNumbers(Tiny):
    def learn(self):
        return {"loss": super().learn()["loss"].sum().item()}


class OneNumberForAll(Tiny):
    def learn(self):
        return {"loss": super().learn()["loss"].mean()}


class KeepsGraph(Tiny):
    def learn(self):
        return super().learn() | {"size": self.value.bias.flatten()}


class Diverges(Tiny):
    def learn(self):
        return {"loss": super().learn()["loss"] / 0.0}


class NoPaper(Tiny):
    paper = " "


class NoQuick(Tiny):
    presets: ClassVar = {"released": {}}


class WrongPreset(Tiny):
    presets: ClassVar = {"quick": {}, "released": {"rat": 0.1}}


class UnknownTaskOverride(Tiny):
    task_overrides: ClassVar = {"mbbl/HalfCheeta": {"rate": 0.1}}


class WrongKind(Tiny):
    observation_kinds = ("sound",)


class NoSentence(Tiny):
    @dataclass(frozen=True, kw_only=True)
    class Config(TinyConfig):
        depth: int = 2


class TwoOfThree(Tiny):
    max_replicas = 3

    def build(self):
        if self.replicas == 3:
            raise MemoryError("only two fit")
        super().build()


class Uncited(Tiny):
    pass


class SharedStream(Tiny):
    def exploit(self, obs, explore, rng):
        return super().exploit(obs, explore, self.rng) + 0.0 * self.rng.normal(1, 1)


class GlobalDropout(Tiny):
    def regress(self, batch):
        return super().regress(batch._replace(obs=torch.dropout(batch.obs, 0.1, train=True)))


class NeedsAnUpdate(Tiny):
    def exploit(self, obs, explore, rng):
        return super().exploit(obs, explore, rng) + 0.0 * self.scale

    def learn(self):
        self.scale = 1.0
        return super().learn()


class NoWarmUp(Tiny):
    def policy(self, obs, explore, rng):
        return self.exploit(obs, explore, rng)


class NeverLearns(Tiny):
    def update(self):
        return {}


class Alone(Tiny):
    max_replicas = 1


class Excepted(IgnoresEnds):
    rule_exceptions: ClassVar = {"terminated_is_not_truncated": "its task never ends"}

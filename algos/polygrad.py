"""PolyGRAD: an actor-critic trained in a diffusion world model.

Rigter, Yamada, Posner 2023, "World Models via Policy-Guided Trajectory Diffusion" (arXiv
2312.08533). A window of H steps, all rows (obs, reward, terminal) at once, is drawn by
denoising. The denoiser learns from windows of real episodes, under their actions:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,  the first state kept clean
    L   = mean ‖ f(x_t, sqrt(abar_t) a, t) - x_0 ‖²

A window of the current policy is drawn from noise, x and a alike, for t = T-1 .. 0:

    x0~ = f(x, sqrt(abar_t) a, t),  m = E[x_{t-1} | x0~, x],  s~ = the states of x0~
    a   = clip(a, mu(s~) +- 3 sigma) + lam ∇_a log pi(a|s~) + std_t noise
    x   = m + std_t noise

where lam is tuned until the actions of windows spread about mu as the policy's own do:
log lam += 3e-3 (v - 1), v = std of (a - mu) / sigma. Each imagined batch then gives one
step of A2C (V' is the target critic, d_h = 1 where step h ended the task):

    delta_h = r_h + gamma (1 - d_h) V'(s_{h+1}) - V'(s_h)
    A_h     = delta_h + gamma lambda (1 - d_h) A_{h+1}
    w_h     = prod_{k<=h} (1 - d_k)
    actor   mean[ w ( -log pi(a_h|s_h) (A_h - mean A) / std A - 1e-5 entropy ) ]
    critic  mean[ w / 2 (V(s_h) - A_h - V'(s_h))² ]

The size of an actor step is D = mean |log pi_new - log pi_old|. A line search shrinks
the step until D is within 20 % of 0.01, and the learning rate it starts from follows the
D of the first trial. It starts at its cap, so that a step is never longer than Adam's.

All this and every default is the authors' code, marc-rigter/polygrad-world-models 62d0054
(2024-03-22); the text of the paper was not consulted. Where the code looks unintended, each
reading is an option, and the preset `released` is the code:

* Its line search makes one more Adam step per trial, from restored weights of the mean alone.
  Default: each trial is the same Adam step, of everything, at another rate.
* Windows near the end of an episode cut before 1000 steps are filled up with zeros, as real as
  the rest. Default: no window runs past a time limit.
* Its guidance carries an action past the mean where lam > sigma², and beyond 2 sigma² out of
  bounds; then v rises with lam, and lam without end. Default: it stops at the mean.
* The last clip of imagined actions, at mu +- 3 sigma, keeps its gradient, so that the loss of the
  actor reaches mu and sigma through clipped actions too (3 in 1000 when v is 1). Not so here, not
  even in `released`: actions are data.
* It left out actions of log pi below -10 per dimension until 63ee1e9. Default: it does.

What differs without an option (age of a batch, random prefill, precision) and what each reading
does stands in `docs/algorithms/polygrad.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algos.base.agent import Agent
from algos.base.offpolicy import Counters
from algos.parts.advantages import lambda_advantages, standardise_kept, survival
from algos.parts.config import AgentConfig, option
from algos.parts.diffusion import Diffusion, tau_betas
from algos.parts.episodes import EpisodeMemory
from algos.parts.gaussian_policy import NormGaussianPolicy, NormMLP, log_prob
from algos.parts.imagination import Imagination, Windows
from algos.parts.line_search import LineSearch, StepSize
from algos.parts.optim import adam, adamw, clone_frozen, per_replica_mean, polyak_, step
from algos.parts.rng import ReplicaRng
from algos.parts.rollout import DrawnAction
from algos.parts.trajectory_denoiser import TrajectoryDenoiser
from algos.parts.types import Spaces, Transition

# Numbers of the code that no preset and no published run changes.
EMA_RATE = 0.01  # of the averaged denoiser that samples: decay 0.99
EMA_EVERY = 10  # denoiser updates between steps of the average
GAE_LAMBDA = 0.9  # of the returns
ENTROPY_WEIGHT = 1e-5
MAX_GRAD_NORM = 0.1  # of the critic and of the actor's mean, each


@dataclass(frozen=True, kw_only=True)
class PolyGRADConfig(AgentConfig):
    """Options of PolyGRAD; `code` is marc-rigter/polygrad-world-models, `base_config.py`."""

    retired = {  # constants now, beside what reads them
        **{"max_path_length": 1000, "embed_dim": 128, "ema_rate": 0.01, "ema_every": 10},
        **{"action_noise": 1.0, "state_clip_until": 10, "min_std": 0.1, "max_grad_norm": 0.1},
        **{"gae_lambda": 0.9, "entropy_weight": 1e-5, "policy_change_tolerance": 0.2},
        **{"line_search_ratio": 0.8, "rate_learning_rate": 3e-4},
    }

    random_steps: int = option(5000, "uniform random actions before learning (code)", low=0)
    agent_start: int = option(1000, "further steps before the actor-critic learns (code)", low=0)
    update_every: int = option(4, "steps for one imagined batch and its update (code)", low=1)
    denoiser_updates: int = option(4, "denoiser updates at each of these times (code)", low=1)
    replay_capacity: int = option(2_000_000, "steps kept (code: 20,000 episodes)", low=2)
    horizon: int = option(10, "steps H of a window (code)", low=2)
    truncated_padding: str = option(
        "none",
        "windows past a time limit: none, or zeros as in code if shorter than 1000",
        choices=("none", "zeros"),
    )
    store_unclipped: bool = option(True, "store samples as drawn, beyond [-1, 1] too (code)")

    diffusion_steps: int = option(128, "denoising steps T (code)", low=2)
    schedule_tau: float = option(1.0, "exponent of the schedule (code; Hopper 0.1)", low=0.01)
    denoiser_hidden: int = option(1024, "width of the denoiser (code)", low=1)
    denoiser_layers: int = option(6, "residual layers of the denoiser (code)", low=1)
    batch_size: int = option(256, "windows in one denoiser update (code)", low=1)
    denoiser_learning_rate: float = option(3e-4, "Adam of the denoiser (code)", low=0.0)
    ema_start: int = option(2000, "denoiser updates before it is more than a copy (code)", low=0)

    imagined_batch: int = option(1024, "windows in one imagined batch (code)", low=2)
    guidance: str = option(
        "gradient",
        "actions while denoising: gradient of log pi, sample of pi, or none (code: grad)",
        choices=("gradient", "sample", "none"),
    )
    guidance_scale: float = option(0.005, "lam at the start (code)", low=1e-8)
    guidance_learning_rate: float = option(3e-3, "rate of log lam; 0 keeps lam (code)", low=0.0)
    overshoot: bool = option(False, "let guidance carry actions past the mean (code)")
    guidance_states: str = option(
        "x0",
        "states that guide: the clean estimate or the posterior mean (code: recon)",
        choices=("x0", "posterior_mean"),
    )
    update_states: bool = option(False, "move states along the gradient of log pi too (code: off)")
    action_clip: float = option(3.0, "bound of |a - mu| in sigma; 0 is none (code)", low=0.0)
    state_clip: float = option(0.25, "largest change in the last steps; 0 is none (code)", low=0.0)

    hidden: int = option(256, "width of actor and critic (code)", low=1)
    initial_std: float = option(1.0, "standard deviation of the policy at first (code)", low=0.0)
    actor_learning_rate: float = option(3e-5, "AdamW of the actor, at most (code)", low=1e-12)
    critic_learning_rate: float = option(3e-4, "AdamW of the critic (code)", low=0.0)
    tau: float = option(0.005, "rate of the target critic (code: 0.995)", low=0.0, high=1.0)
    log_prob_floor: float = option(
        -10.0,
        "of log pi per action dimension: leaves out less likely actions; 0 none (code: none)",
        high=0.0,
    )
    learn_at_end: bool = option(False, "train at the step that ends the task too (code: off)")
    policy_change: float = option(0.01, "size D of an actor step to aim at (code)", low=0.0)
    line_search: str = option(
        "same_step",
        "trials: the same Adam step at another rate, or released (one more Adam step each)",
        choices=("same_step", "released"),
    )


class PolyGRAD(Agent):
    """Denoiser on real windows, actor-critic on imagined ones."""

    title = "PolyGRAD"
    paper = "Rigter et al. 2023, World Models via Policy-Guided Trajectory Diffusion, 2312.08533"
    Config = PolyGRADConfig
    config: PolyGRADConfig
    # The trials of a line search depend on the data, and a replica may be without a finished
    # episode while others learn. Nothing is lost: one imagined batch fills a machine.
    max_replicas = 1
    presets = {
        "released": {  # but for the gradient through the last clip, see above
            **{"truncated_padding": "zeros", "overshoot": True},
            **{"line_search": "released", "log_prob_floor": 0.0},
        },
        "quick": {
            **{"diffusion_steps": 32, "denoiser_hidden": 256, "denoiser_layers": 3, "hidden": 128},
            **{"agent_start": 0, "batch_size": 128, "imagined_batch": 128},
            # A few hundred updates, so larger steps; lam is one of 32 pulls, not of 128.
            **{"denoiser_learning_rate": 1e-3, "actor_learning_rate": 3e-4, "policy_change": 0.03},
            **{"critic_learning_rate": 1e-3, "guidance_scale": 0.02},
            "guidance_learning_rate": 1e-2,
        },
    }
    task_overrides = {
        task: {"schedule_tau": 0.1}
        for task in ("mbbl/Hopper", "mbbl/Hopper-ET", "gym/Hopper-v4", "gym/Hopper-v5")
    }
    rule_exceptions = {
        "terminated_is_not_truncated": "windows lie inside one episode, so a time limit decides "
        "which there are; values bootstrap at their last step, as the tests show",
    }

    def __init__(
        self,
        spaces: Spaces,
        config: AgentConfig,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spaces, config, seeds, device)
        c, rng = self.config, self.rng
        self.memory = self.make_memory()
        obs_dim, action_dim = self.memory.obs_dim, spaces.action_dim
        self.counters = Counters()
        self.diffusion = Diffusion(tau_betas(c.diffusion_steps, c.schedule_tau), self.device)
        sizes = (c.horizon, obs_dim, action_dim, c.denoiser_hidden, c.denoiser_layers)
        self.denoiser = TrajectoryDenoiser(rng, *sizes, self.dtype)
        self.averaged = clone_frozen(self.denoiser)
        self.imagination = Imagination(self.diffusion, c, action_dim)
        layers = [obs_dim, c.hidden, c.hidden]
        self.actor = NormGaussianPolicy(rng, [*layers, action_dim], c.initial_std)
        self.critic = NormMLP(rng, [*layers, 1])
        self.target = clone_frozen(self.critic)
        self.step_size = StepSize(c.guidance_scale, c.actor_learning_rate, self.device)
        self.denoiser_optimizer = adam(self.denoiser.parameters(), c.denoiser_learning_rate)
        self.actor_optimizer = adamw(self.actor.parameters(), c.actor_learning_rate)
        self.critic_optimizer = adamw(self.critic.parameters(), c.critic_learning_rate)
        self.rate_optimizer = adamw([self.step_size.log_rate], LineSearch.RATE_LEARNING_RATE)
        self.line_search = LineSearch(
            self.actor, self.actor_optimizer, self.step_size, self.rate_optimizer, c
        )
        self.drawn = DrawnAction()

    def make_memory(self) -> Any:
        """Make the memory of episodes; its states are here what was observed."""
        obs_dim, action_dim = self.spaces.obs_shape[0], self.spaces.action_dim
        return EpisodeMemory.of(self.config, obs_dim, action_dim, self.device)

    def see(self, obs: Tensor) -> Tensor:
        """Return states `[R, N, S]` of observations `[R, N, *obs_shape]`."""
        return obs

    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Act uniformly at random, then by samples while exploring; the mean in evaluation."""
        if not explore:
            return self.actor(self.see(obs))
        if self.counters.steps < self.config.random_steps:
            action = rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        else:
            mean = self.actor(self.see(obs))
            action = mean + self.actor.std() * rng.normal(*mean.shape[1:])
        self.drawn.keep(action)
        return action

    def observe(self, transition: Transition) -> None:
        """Store the step with the action as it was drawn, if it is this agent's own."""
        t = transition
        action = self.drawn.of(t.action) if self.config.store_unclipped else t.action
        ends = bool(t.terminated[0]), bool(t.truncated[0])
        self.memory.add(t.obs[0], action[0], float(t.reward[0]), *ends)
        self.counters.steps += 1

    def update(self) -> dict[str, Tensor]:
        """See `Agent.update`; learns at every `update_every`-th step.

        Nothing is reported before the actor-critic learns as well: metrics have the same
        names at every update.
        """
        c = self.config
        steps = self.counters.steps - c.random_steps
        if steps <= 0 or steps % c.update_every or not len(self.memory):
            return {}
        metrics = self.learn(steps >= c.agent_start)
        self.counters.updates += 1
        return metrics if steps >= c.agent_start else {}

    def learn(self, act: bool) -> dict[str, Tensor]:
        """Do one actor-critic update, if `act`, and some of the denoiser."""
        metrics = {}
        if act:
            states = self.memory.start_states(self.config.imagined_batch, self.rng)
            metrics = self.update_actor_critic(self.imagine(states))
        return metrics | {"denoiser_loss": self.update_denoiser()}

    # ------------------------------------------------------------ world model

    def update_denoiser(self) -> Tensor:
        """Do `denoiser_updates` steps on fresh windows, each with its average; return the loss."""
        c = self.config
        windows = self.memory.sample(c.denoiser_updates * c.batch_size, self.rng)
        losses = []
        for k, batch in enumerate(windows.split(c.batch_size, dim=1)):
            rows = self.memory.moments.normalise(batch)
            loss = self.denoiser.loss(rows, self.diffusion, self.rng)
            step(self.denoiser_optimizer, loss.sum())
            losses.append(loss.detach())
            done = self.counters.updates * c.denoiser_updates + k
            if done % EMA_EVERY == 0:
                rate = 1.0 if done < c.ema_start else EMA_RATE
                polyak_(self.averaged, self.denoiser, rate)
        return torch.stack(losses).mean(0)

    def imagine(self, obs: Tensor) -> Windows:
        """Draw a window of the present policy from each state; `obs` `[R, B, S]`."""
        moments, guidance = self.memory.moments, self.step_size.log_guidance.detach().exp()
        self.imagination.load(self.averaged, self.actor, moments, guidance)
        return self.imagination.windows(obs, moments, self.rng)

    # ------------------------------------------------------------ actor-critic

    def update_actor_critic(self, windows: Windows) -> dict[str, Tensor]:
        """Do one step of critic and actor on imagined windows, then one of lam."""
        c = self.config
        polyak_(self.target, self.critic, c.tau)
        with torch.no_grad():
            value = self.target(windows.obs.flatten(1, 2)).view(windows.reward.shape)
            advantage = lambda_advantages(
                windows.reward, windows.terminal, value, c.discount, GAE_LAMBDA
            )
            returns = (advantage + value[..., :-1]).flatten(1)
            weight = survival(windows.terminal, c.learn_at_end).flatten(1)
            obs, action = (part[:, :, :-1].flatten(1, 2) for part in windows[:2])
            z = (action - self.actor(obs)) / self.actor.std()
            floor = c.log_prob_floor * self.spaces.action_dim or -math.inf
            keep = (log_prob(z, torch.zeros_like(z), torch.ones_like(z)) > floor).float()
            scaled = standardise_kept(advantage.flatten(1), keep)
        metrics = self.update_critic(obs, returns, keep * weight)
        metrics |= self.update_actor(obs, action, keep * scaled, weight)
        spread = z.std(1).mean(-1)
        if c.guidance == "gradient":
            self.step_size.tune_guidance(spread, c.guidance_learning_rate)
        return metrics | {
            "action_spread": spread,
            "guidance": self.step_size.log_guidance.detach().exp(),
            "imagined_reward": per_replica_mean(windows.reward),
            "imagined_terminal": per_replica_mean(windows.terminal),
            "kept": per_replica_mean(keep),
        }

    def update_critic(self, obs: Tensor, returns: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Regress on weighted lambda-returns `[R, N]`."""
        value = self.critic(obs).squeeze(-1)
        loss = per_replica_mean(0.5 * weight * (value - returns).square())
        step(self.critic_optimizer, loss.sum(), self.replicas, MAX_GRAD_NORM)
        return {"critic_loss": loss.detach(), "value": per_replica_mean(value.detach())}

    def update_actor(
        self, obs: Tensor, action: Tensor, advantage: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Do one policy-gradient step of a size that the line search chooses.

        Args:
            obs: `[R, N, S]`.
            action: `[R, N, A]`.
            advantage: standardised, `[R, N]`.
            weight: `[R, N]`.
        """
        entropy = self.actor.entropy()
        before = log_prob(action, self.actor(obs), self.actor.std())
        gain = before * advantage + ENTROPY_WEIGHT * entropy[:, None]
        loss = per_replica_mean(-weight * gain)
        numbers = self.line_search.step(loss.sum(), obs, action, before.detach(), MAX_GRAD_NORM)
        metrics = {"actor_loss": loss.detach(), "entropy": entropy.detach()}
        return metrics | {name: loss.new_tensor([value]) for name, value in numbers.items()}

    def hot_loops(self) -> dict[str, Callable[[], object]]:
        """Return one imagined batch; what it starts from makes no difference to its cost."""
        obs = torch.zeros(1, self.config.imagined_batch, self.memory.obs_dim, device=self.device)
        return {"imagine": lambda: self.imagine(obs)}

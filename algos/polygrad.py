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
D of the first trial. The rate starts at its cap, so that a step is never longer than
Adam's.

All this and every default is the authors' code, marc-rigter/polygrad-world-models 62d0054
(2024-03-22); the text of the paper was not consulted. The memory is in `_episodes.py`,
networks and denoising are in `_imagine.py`. Where the code looks unintended, each reading
is an option, and the preset `released` is the code:

* Its line search restores the weights of the mean for each trial, not the standard
  deviation nor Adam's moments, which so make one step per trial, up to 50 per update.
  Default: each trial is the same Adam step, of everything, at another rate.
* Windows near the end of an episode cut before 1000 steps are filled up with zeros, as
  real as the rest. Default: no window runs past a time limit.
* Its guidance carries an action past the mean where lam > sigma², and beyond 2 sigma² out
  of bounds; then v rises with lam, and lam without end. Default: it stops at the mean.
* The last clip of imagined actions, at mu +- 3 sigma, keeps its gradient, so that the loss of
  the actor reaches mu and sigma through the clipped actions too. Not so here, not even in
  `released`: actions are data. It concerns those beyond 3 sigma, 3 in 1000 when v is 1.
* It left out actions of log pi below -10 per dimension until 63ee1e9. Default: they are left
  out (`log_prob_floor`).
* Its training batches come from workers whose data and normaliser lag behind. Not so here.
* The prefill is 5000 random steps outside the budget. Here they count, and their number
  is the protocol's; the random episode under way at the end of them is not thrown away.
* float16 with loss scaling becomes bfloat16, which needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from algos.base.agent import Agent, Array, Spaces, Transition
from algos.base.offpolicy import Counters
from algos.parts.config import AgentConfig, option
from algos.parts.diffusion import Diffusion
from algos.parts.episodes import EpisodeMemory
from algos.parts.imagination import (
    Denoiser,
    GaussianPolicy,
    Imagination,
    NormMLP,
    log_prob,
    tau_betas,
)
from algos.parts.optim import adam, clip_grad_norm_, clone_frozen, per_replica_mean, polyak_, step
from algos.parts.rng import ReplicaRng

MAX_TRIALS = 50  # of the line search, beyond the first step


@dataclass(frozen=True, kw_only=True)
class PolyGRADConfig(AgentConfig):
    """Options of PolyGRAD; `code` is marc-rigter/polygrad-world-models, `base_config.py`."""

    random_steps: int = option(
        5000, "environment steps of uniform random actions before learning (code)", low=0
    )
    agent_start: int = option(
        1000, "further steps before the first actor-critic update (code)", low=0
    )
    update_every: int = option(
        4, "environment steps for one imagined batch and its actor-critic update (code)", low=1
    )
    denoiser_updates: int = option(
        4, "denoiser updates at each of these times (code: one per step)", low=1
    )
    replay_capacity: int = option(
        2_000_000, "steps kept (code: 20,000 episodes, more than any published run fills)", low=2
    )
    horizon: int = option(10, "steps H of a window (code)", low=2)
    truncated_padding: str = option(
        "none",
        "windows past a time limit: none, or zeros as in code if shorter than max_path_length",
        choices=("none", "zeros"),
    )
    max_path_length: int = option(1000, "longest episode P that code knows (code)", low=1)
    store_unclipped: bool = option(
        True, "store the policy's sample as drawn, beyond [-1, 1] too (code)"
    )

    diffusion_steps: int = option(128, "denoising steps T (code)", low=2)
    schedule_tau: float = option(
        1.0, "exponent of the cosine schedule (code: 1.0, Hopper 0.1)", low=0.01
    )
    denoiser_hidden: int = option(1024, "width of the denoiser (code)", low=1)
    denoiser_layers: int = option(6, "residual layers of the denoiser (code)", low=1)
    embed_dim: int = option(
        128, "smallest width of the window's embedding, else its size (code)", low=1
    )
    batch_size: int = option(256, "windows in one denoiser update (code)", low=1)
    denoiser_learning_rate: float = option(3e-4, "Adam of the denoiser (code)", low=0.0)
    ema_rate: float = option(
        0.01, "rate of the averaged denoiser that samples (code: decay 0.99)", low=0.0, high=1.0
    )
    ema_every: int = option(10, "denoiser updates between steps of the average (code)", low=1)
    ema_start: int = option(2000, "denoiser updates before it is more than a copy (code)", low=0)

    imagined_batch: int = option(1024, "windows in one imagined batch (code)", low=2)
    guidance: str = option(
        "gradient",
        "actions while denoising: gradient of log pi, sample of pi, or none (code: grad)",
        choices=("gradient", "sample", "none"),
    )
    guidance_scale: float = option(0.005, "lam at the start (code)", low=1e-8)
    guidance_learning_rate: float = option(
        3e-3, "rate of log lam; 0 keeps lam (code; 3e-2 with a fixed data set)", low=0.0
    )
    overshoot: bool = option(
        False, "let guidance carry actions past the mean, where lam can run away (code)"
    )
    guidance_states: str = option(
        "x0",
        "states that guide: the clean estimate or the posterior mean (code: recon)",
        choices=("x0", "posterior_mean"),
    )
    update_states: bool = option(
        False, "move states along the gradient of log pi too (code: False)"
    )
    action_clip: float = option(
        3.0, "bound of an action's distance to the mean in sigma; 0 is none (code)", low=0.0
    )
    action_noise: float = option(1.0, "factor kappa of the noise of actions (code)", low=0.0)
    state_clip: float = option(
        0.25, "largest change of a number in the last steps; 0 is none (code)", low=0.0
    )
    state_clip_until: int = option(10, "largest t of these last steps (code)", low=0)

    hidden: int = option(256, "width of actor and critic (code)", low=1)
    initial_std: float = option(1.0, "standard deviation of the policy at first (code)", low=0.0)
    min_std: float = option(0.1, "smallest standard deviation of the policy (code)", low=0.0)
    actor_learning_rate: float = option(
        3e-5, "AdamW of the actor, at the start and at most (code)", low=1e-12
    )
    critic_learning_rate: float = option(3e-4, "AdamW of the critic (code)", low=0.0)
    max_grad_norm: float = option(
        0.1, "gradient norm of critic and of the actor's mean (code)", low=0.0
    )
    gae_lambda: float = option(0.9, "lambda of the returns (code)", low=0.0, high=1.0)
    tau: float = option(0.005, "rate of the target critic (code: 0.995)", low=0.0, high=1.0)
    entropy_weight: float = option(1e-5, "weight of the entropy (code)", low=0.0)
    log_prob_floor: float = option(
        -10.0,
        "per action dimension, leaves out actions too unlikely under pi; 0 leaves out none "
        "(code until 63ee1e9, not in 62d0054)",
        high=0.0,
    )
    learn_at_end: bool = option(
        False, "train at the step that ends the task too; code gives it weight 0"
    )
    policy_change: float = option(0.01, "size D of an actor step to aim at (code)", low=0.0)
    policy_change_tolerance: float = option(0.2, "accepted share off that size (code)", low=0.0)
    line_search: str = option(
        "same_step",
        "trials: the same Adam step at another rate, or released (one more Adam step each)",
        choices=("same_step", "released"),
    )
    line_search_ratio: float = option(
        0.8, "factor of the rate between trials (code)", low=0.01, high=0.99
    )
    rate_learning_rate: float = option(3e-4, "AdamW of the log actor rate (code)", low=0.0)


def lambda_advantages(
    reward: Tensor, terminal: Tensor, value: Tensor, discount: float, decay: float
) -> Tensor:
    """Generalised advantages A_h `[R, B, H - 1]` of windows; all arguments `[R, B, H]`."""
    go_on = discount * (1.0 - terminal[..., :-1])
    delta = reward[..., :-1] + go_on * value[..., 1:] - value[..., :-1]
    advantage = delta.clone()
    for h in reversed(range(delta.shape[-1] - 1)):
        advantage[..., h] += decay * go_on[..., h] * advantage[..., h + 1]
    return advantage


def standardise(values: Tensor, keep: Tensor) -> Tensor:
    """(values - mean) / (std + 1e-8) `[R, N]`, with the moments of those where `keep` is 1."""
    count = keep.sum(-1, keepdim=True).clamp(min=2.0)
    gap = values - (values * keep).sum(-1, keepdim=True) / count
    variance = (gap.square() * keep).sum(-1, keepdim=True) / (count - 1.0)
    return gap / (variance.sqrt() + 1e-8)


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


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """AdamW with one fused kernel and torch's weight decay of 0.01, as in code."""
    return torch.optim.AdamW(parameters, lr=lr, fused=True)


class StepSize(nn.Module):
    """What follows the imagined data: log lam and the log of the actor's rate, `[R]` each."""

    def __init__(self, guidance: float, rate: float, device: torch.device) -> None:
        super().__init__()
        self.log_guidance = nn.Parameter(torch.full((1,), math.log(guidance), device=device))
        self.log_rate = nn.Parameter(torch.full((1,), math.log(rate), device=device))


class PolyGRAD(Agent):
    """Denoiser on real windows, actor-critic on imagined ones."""

    title = "PolyGRAD"
    paper = "Rigter et al. 2023, World Models via Policy-Guided Trajectory Diffusion, 2312.08533"
    Config = PolyGRADConfig
    # The number of trials of a line search depends on the data, and a replica may be
    # without a finished episode while others learn. Nothing is lost: one imagined batch
    # of 1024 windows fills a machine.
    max_replicas = 1
    presets = {
        # One thing of the code is left out: its policy gradient leaks through the last clip of
        # imagined actions (see the head of this file).
        "released": {
            "truncated_padding": "zeros",
            "overshoot": True,
            "line_search": "released",
            "log_prob_floor": 0.0,
        },
        "quick": {
            "agent_start": 0,
            "diffusion_steps": 32,
            "denoiser_hidden": 256,
            "denoiser_layers": 3,
            "batch_size": 128,
            "imagined_batch": 128,
            "hidden": 128,
            # A few hundred updates, so larger steps; lam is one of 32 pulls, not of 128.
            "denoiser_learning_rate": 1e-3,
            "guidance_scale": 0.02,
            "guidance_learning_rate": 1e-2,
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 1e-3,
            "policy_change": 0.03,
        },
    }
    task_overrides = {
        task: {"schedule_tau": 0.1} for task in ("mbbl/Hopper", "mbbl/Hopper-ET", "gym/Hopper-v5")
    }
    rule_exceptions = {
        "terminated_is_not_truncated": "windows lie inside one episode, so a time limit decides "
        "which there are; values bootstrap at their last step, as the tests show",
    }

    def __init__(
        self,
        spaces: Spaces,
        config: Any,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spaces, config, seeds, device)
        c, rng = self.config, self.rng
        self.memory = self.make_memory()
        obs_dim, action_dim = self.memory.obs_dim, spaces.action_dim
        self.counters = Counters()
        self.diffusion = Diffusion(tau_betas(c.diffusion_steps, c.schedule_tau), self.device)
        self.denoiser = Denoiser(
            rng,
            c.horizon,
            obs_dim,
            action_dim,
            c.denoiser_hidden,
            c.denoiser_layers,
            c.embed_dim,
            self.dtype,
        )
        self.averaged = clone_frozen(self.denoiser)
        self.imagination = Imagination(self.diffusion, c, action_dim)
        sizes = [obs_dim, c.hidden, c.hidden]
        self.actor = GaussianPolicy(rng, [*sizes, action_dim], c.initial_std, c.min_std)
        self.critic = NormMLP(rng, [*sizes, 1])
        self.target = clone_frozen(self.critic)
        self.step_size = StepSize(c.guidance_scale, c.actor_learning_rate, self.device)
        self.denoiser_optimizer = adam(self.denoiser.parameters(), c.denoiser_learning_rate)
        self.actor_optimizer = adamw(self.actor.parameters(), c.actor_learning_rate)
        self.critic_optimizer = adamw(self.critic.parameters(), c.critic_learning_rate)
        self.rate_optimizer = adamw([self.step_size.log_rate], c.rate_learning_rate)
        # The last action before it was clamped. Made and read within one environment
        # step, between which no state is taken.
        self.drawn = np.zeros((1, action_dim), np.float32)

    def make_memory(self) -> Any:
        """Episodes, and in them the states of the world model: here, what was observed."""
        obs_dim, action_dim = self.spaces.obs_shape[0], self.spaces.action_dim
        return EpisodeMemory.of(self.config, obs_dim, action_dim, self.device)

    def see(self, obs: Tensor) -> Tensor:
        """States `[R, N, S]` of observations `[R, N, *obs_shape]`."""
        return obs

    def policy(self, obs: Tensor, explore: bool, rng: ReplicaRng) -> Tensor:
        """Uniform random, then samples while exploring; the mean in evaluation."""
        if not explore:
            return self.actor(self.see(obs))
        if self.counters.steps < self.config.random_steps:
            action = rng.uniform(obs.shape[1], self.spaces.action_dim, low=-1.0, high=1.0)
        else:
            mean = self.actor(self.see(obs))
            action = mean + self.actor.std() * rng.normal(*mean.shape[1:])
        self.drawn = action[:, 0].cpu().numpy().copy()
        return action

    def observe(self, transition: Transition) -> None:
        """Store the step with the action as it was drawn, if it is this agent's own."""
        action: Array = transition.action
        own = np.array_equal(self.drawn.clip(-1.0, 1.0), action)
        self.memory.add(
            transition.obs[0],
            (self.drawn if own and self.config.store_unclipped else action)[0],
            float(transition.reward[0]),
            bool(transition.terminated[0]),
            bool(transition.truncated[0]),
        )
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
        """One actor-critic update, if `act`, and some of the denoiser."""
        metrics = {}
        if act:
            states = self.memory.start_states(self.config.imagined_batch, self.rng)
            metrics = self.update_actor_critic(self.imagine(states))
        return metrics | {"denoiser_loss": self.update_denoiser()}

    # ------------------------------------------------------------ world model

    def update_denoiser(self) -> Tensor:
        """`denoiser_updates` steps on fresh windows, each followed by the average; loss `[R]`."""
        c = self.config
        windows = self.memory.sample(c.denoiser_updates * c.batch_size, self.rng)
        losses = []
        for k, batch in enumerate(windows.split(c.batch_size, dim=1)):
            loss = self.denoising_loss(self.memory.moments.normalise(batch))
            step(self.denoiser_optimizer, loss.sum())
            losses.append(loss.detach())
            done = self.counters.updates * c.denoiser_updates + k
            if done % c.ema_every == 0:
                rate = 1.0 if done < c.ema_start else c.ema_rate
                polyak_(self.averaged, self.denoiser, rate)
        return torch.stack(losses).mean(0)

    def denoising_loss(self, windows: Tensor) -> Tensor:
        """Squared error of the clean rows, `[R]`; `windows` normalised `[R, B, H, S + 2 + A]`."""
        obs_dim, action_dim = self.memory.obs_dim, self.spaces.action_dim
        x0, action = windows.split([obs_dim + 2, action_dim], dim=-1)
        t = self.rng.integers(self.diffusion.steps, x0.shape[1])
        x = self.diffusion.corrupt(x0, t.unsqueeze(-1), self.rng.normal(*x0.shape[1:]))
        x[:, :, 0, :obs_dim] = x0[:, :, 0, :obs_dim]
        # Actions are scaled like a sample of step t, but never noisy.
        scaled = self.diffusion.signal[t][..., None, None] * action
        error = (self.denoiser(torch.cat([x, scaled], dim=-1), t) - x0).square()
        error[:, :, 0, :obs_dim] = 0.0  # the first state is given, and counts as learned
        return per_replica_mean(error)

    def imagine(self, obs: Tensor) -> Windows:
        """Draw a window of the present policy from each state; `obs` `[R, B, S]`."""
        moments, guidance = self.memory.moments, self.step_size.log_guidance.detach().exp()
        self.imagination.load(self.averaged, self.actor, moments, guidance)
        x, action = self.imagination.draw(moments.normalise(obs), self.rng)
        rows = moments.unnormalise(torch.cat([x, action], dim=-1))
        widths = [obs.shape[-1], 1, 1, self.spaces.action_dim]
        states, reward, terminal, action = rows.split(widths, dim=-1)
        return Windows(states, action, reward[..., 0], (terminal[..., 0] > 0.5).float())

    # ------------------------------------------------------------ actor-critic

    def update_actor_critic(self, windows: Windows) -> dict[str, Tensor]:
        """One step of critic and actor on imagined windows, then one of lam."""
        c = self.config
        polyak_(self.target, self.critic, c.tau)
        with torch.no_grad():
            value = self.target(windows.obs.flatten(1, 2)).view(windows.reward.shape)
            advantage = lambda_advantages(
                windows.reward, windows.terminal, value, c.discount, c.gae_lambda
            )
            returns = (advantage + value[..., :-1]).flatten(1)
            weight = self.weights(windows.terminal).flatten(1)
            obs, action = (part[:, :, :-1].flatten(1, 2) for part in windows[:2])
            z = (action - self.actor(obs)) / self.actor.std()
            floor = c.log_prob_floor * self.spaces.action_dim or -math.inf
            keep = (log_prob(z, torch.zeros_like(z), torch.ones_like(z)) > floor).float()
            scaled = standardise(advantage.flatten(1), keep)
        metrics = self.update_critic(obs, returns, keep * weight)
        metrics |= self.update_actor(obs, action, keep * scaled, weight)
        spread = z.std(1).mean(-1)
        self.tune_guidance(spread)
        return metrics | {
            "action_spread": spread,
            "guidance": self.step_size.log_guidance.detach().exp(),
            "imagined_reward": per_replica_mean(windows.reward),
            "imagined_terminal": per_replica_mean(windows.terminal),
            "kept": per_replica_mean(keep),
        }

    def weights(self, terminal: Tensor) -> Tensor:
        """w_h `[R, B, H - 1]`: 1 up to the step that ends the task, which has 0 as in code."""
        alive = (1.0 - terminal[..., :-1]).cumprod(-1)
        if self.config.learn_at_end:
            return torch.cat([torch.ones_like(alive[..., :1]), alive[..., :-1]], dim=-1)
        return alive

    def update_critic(self, obs: Tensor, returns: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Weighted regression on lambda-returns `[R, N]`."""
        value = self.critic(obs).squeeze(-1)
        loss = per_replica_mean(0.5 * weight * (value - returns).square())
        step(self.critic_optimizer, loss.sum(), self.replicas, self.config.max_grad_norm)
        return {"critic_loss": loss.detach(), "value": per_replica_mean(value.detach())}

    def update_actor(
        self, obs: Tensor, action: Tensor, advantage: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """One policy-gradient step of a size that the line search chooses.

        Args:
            obs: `[R, N, S]`.
            action: `[R, N, A]`.
            advantage: `[R, N]`, standardised.
            weight: `[R, N]`.
        """
        c, entropy = self.config, self.actor.entropy()
        before = log_prob(action, self.actor(obs), self.actor.std())
        gain = before * advantage + c.entropy_weight * entropy[:, None]
        loss = per_replica_mean(-weight * gain)
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        clip_grad_norm_(self.actor.net.parameters(), self.replicas, c.max_grad_norm)

        @torch.no_grad()
        def change() -> float:
            after = log_prob(action, self.actor(obs), self.actor.std())
            return float((after - before).abs().mean())

        rate = float(self.step_size.log_rate.detach().exp())
        first, last, trials = self.line_search(rate, change)
        self.adapt_rate(first)
        numbers = {"policy_change": last, "first_change": first, "trials": trials, "rate": rate}
        return {
            "actor_loss": loss.detach(),
            "entropy": entropy.detach(),
            **{name: loss.new_tensor([value]) for name, value in numbers.items()},
        }

    def line_search(self, rate: float, change: Callable[[], float]) -> tuple[float, float, int]:
        """Step the actor at `rate`, then at others until D is close to what it should be.

        The gradients are those of the step's beginning throughout. Each trial waits for
        its D on the host: it decides whether there is another.

        Returns:
            D of the first and of the last trial, and how many there were.
        """
        c, released = self.config, self.config.line_search == "released"
        moving = list((self.actor.net if released else self.actor).parameters())
        before = [p.detach().clone() for p in moving]
        self._step_actor(rate)
        # AdamW's step, decay included, is proportional to its rate: no need to repeat it.
        way = [(p.detach() - old) / rate for p, old in zip(moving, before, strict=True)]

        @torch.no_grad()
        def retry(trial: float) -> None:
            for p, old, slope in zip(moving, before, way, strict=True):
                p.copy_(old if released else old + trial * slope)
            if released:
                self._step_actor(trial)

        size = first = change()
        trials, trial = 1, rate
        while trials <= MAX_TRIALS and not self._close(size):
            trial *= c.line_search_ratio if size > c.policy_change else 1.0 / c.line_search_ratio
            if trial > c.actor_learning_rate:
                break
            retry(trial)
            size = change()
            trials += 1
        return first, size, trials

    def _close(self, size: float) -> bool:
        target, share = self.config.policy_change, self.config.policy_change_tolerance
        return target * (1.0 - share) <= size <= target * (1.0 + share)

    def _step_actor(self, rate: float) -> None:
        for group in self.actor_optimizer.param_groups:
            group["lr"] = rate
        self.actor_optimizer.step()

    def adapt_rate(self, first: float) -> None:
        """Move the log rate by the gap of the first D, never above the cap."""
        c, log_rate = self.config, self.step_size.log_rate
        log_rate.grad = torch.full_like(log_rate, first - c.policy_change)
        self.rate_optimizer.step()
        with torch.no_grad():
            log_rate.clamp_(max=math.log(c.actor_learning_rate))

    @torch.no_grad()
    def tune_guidance(self, spread: Tensor) -> None:
        """Guide less if actions lie closer about the mean than the policy's, more if farther."""
        if self.config.guidance == "gradient":
            gap = self.config.guidance_learning_rate * (spread - 1.0)
            self.step_size.log_guidance.add_(gap)

    def hot_loops(self) -> dict[str, Callable[[], object]]:
        """One imagined batch; what it starts from makes no difference to its cost."""
        obs = torch.zeros(1, self.config.imagined_batch, self.memory.obs_dim, device=self.device)
        return {"imagine": lambda: self.imagine(obs)}

    def components(self) -> dict[str, Any]:
        """See `Agent.components`."""
        return {
            "memory": self.memory,
            "counters": self.counters,
            "denoiser": self.denoiser,
            "averaged": self.averaged,
            "actor": self.actor,
            "critic": self.critic,
            "target": self.target,
            "step_size": self.step_size,
            "denoiser_optimizer": self.denoiser_optimizer,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "rate_optimizer": self.rate_optimizer,
        }

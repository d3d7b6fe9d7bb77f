"""Policy steps of a chosen size: PolyGRAD's line search over the actor's learning rate.

The size of a step is D = mean |log pi_new - log pi_old|. The search shrinks or grows the step
until D is close to a target, and the rate that it starts from follows the D of first trials. The
rate starts at its cap, so that a step is never longer than Adam's. All of this is
marc-rigter/polygrad-world-models 62d0054, `agent/a2c.py`, but for what `released` switches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from algos.parts.gaussian_policy import NormGaussianPolicy, log_prob
from algos.parts.optim import clip_grad_norm_


class StepSize(nn.Module):
    """What follows the imagined data: log lam and the log of the actor's rate, `[R]` each."""

    def __init__(self, guidance: float, rate: float, device: torch.device) -> None:
        super().__init__()
        self.log_guidance = nn.Parameter(torch.full((1,), math.log(guidance), device=device))
        self.log_rate = nn.Parameter(torch.full((1,), math.log(rate), device=device))

    @torch.no_grad()
    def tune_guidance(self, spread: Tensor, rate: float) -> None:
        """Guide less if actions lie closer about the mean than the policy's, more if farther.

        Args:
            spread: standard deviation of actions about the mean in units of the policy's, `[R]`.
            rate: of log lam.
        """
        self.log_guidance.add_(rate * (spread - 1.0))


class LineSearch:
    """Steps of a policy with D near a target.

    Args:
        policy: all of it moves; its `net` is the network of the mean.
        optimizer: AdamW of the policy.
        step_size: its `log_rate` is that of first trials, and follows their D.
        rate_optimizer: AdamW of `log_rate`.
        config: options of PolyGRAD: `policy_change` is the target, `actor_learning_rate` the
            largest rate. With `line_search` `released` every trial is one more Adam step, from
            restored weights of the mean but not of the standard deviation nor of Adam's moments
            (a fault of the code); else each is the same Adam step at another rate.
    """

    MAX_TRIALS = 50  # beyond the first step (code)
    RATIO = 0.8  # factor of the rate between trials (code)
    TOLERANCE = 0.2  # accepted share off the target (code)
    RATE_LEARNING_RATE = 3e-4  # AdamW of the log of the rate (code)

    def __init__(
        self,
        policy: NormGaussianPolicy,
        optimizer: torch.optim.Optimizer,
        step_size: StepSize,
        rate_optimizer: torch.optim.Optimizer,
        config: Any,
    ) -> None:
        self.policy, self.optimizer = policy, optimizer
        self.log_rate, self.rate_optimizer = step_size.log_rate, rate_optimizer
        self.target, self.cap = config.policy_change, config.actor_learning_rate
        self.released = config.line_search == "released"

    def step(
        self, loss: Tensor, obs: Tensor, action: Tensor, before: Tensor, max_norm: float
    ) -> dict[str, float]:
        """Step the policy down the gradient of `loss`, then let the rate follow.

        Args:
            loss: a scalar.
            obs: `[R, N, S]`, where D is measured.
            action: `[R, N, A]`.
            before: log pi of these actions before the step, `[R, N]`.
            max_norm: largest gradient norm of the network of the mean.

        Returns:
            D of the accepted and of the first trial, how many trials there were, and the rate of
            the first.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(self.policy.net.parameters(), len(obs), max_norm)

        @torch.no_grad()
        def change() -> float:
            after = log_prob(action, self.policy(obs), self.policy.std())
            return float((after - before).abs().mean())

        rate = float(self.log_rate.detach().exp())
        first, last, trials = self._search(rate, change)
        self.adapt_rate(first)
        return {"policy_change": last, "first_change": first, "trials": trials, "rate": rate}

    def _search(self, rate: float, change: Callable[[], float]) -> tuple[float, float, int]:
        """Step at `rate`, then at others until D is close to what it should be.

        The gradients are those of the step's beginning throughout. Each trial waits for its D on
        the host: it decides whether there is another.
        """
        moving = list((self.policy.net if self.released else self.policy).parameters())
        before = [p.detach().clone() for p in moving]
        self._step(rate)
        # AdamW's step, decay included, is proportional to its rate: no need to repeat it.
        way = [(p.detach() - old) / rate for p, old in zip(moving, before, strict=True)]

        @torch.no_grad()
        def retry(trial: float) -> None:
            for p, old, slope in zip(moving, before, way, strict=True):
                p.copy_(old if self.released else old + trial * slope)
            if self.released:
                self._step(trial)

        size = first = change()
        trials, trial = 1, rate
        while trials <= self.MAX_TRIALS and not self._close(size):
            trial *= self.RATIO if size > self.target else 1.0 / self.RATIO
            if trial > self.cap:
                break
            retry(trial)
            size = change()
            trials += 1
        return first, size, trials

    def _close(self, size: float) -> bool:
        low, high = (self.target * (1.0 + share) for share in (-self.TOLERANCE, self.TOLERANCE))
        return low <= size <= high

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def adapt_rate(self, first: float) -> None:
        """Move the log rate by the gap of the first D, never above the cap."""
        self.log_rate.grad = torch.full_like(self.log_rate, first - self.target)
        self.rate_optimizer.step()
        with torch.no_grad():
            self.log_rate.clamp_(max=math.log(self.cap))

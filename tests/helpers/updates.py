"""Small agents, small tasks and comparisons that the tests of `algos` share."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_discrete_are

import algos
from algos.base.agent import Agent
from algos.parts.config import build_config
from algos.parts.replay import Batch
from algos.parts.types import Spaces, Transition

# Two threads on products this small only wait for each other.
torch.set_num_threads(1)

# Algorithms for vectors; those for pixels alone have tests of their own.
STATES = [name for name in algos.list_algos() if "state" in algos.versions(algos.load(name))]

# Options that make any agent cheap; those an agent does not have are left out, so that
# a new algorithm is tested without an entry here.
SMALL: dict[str, Any] = {
    "random_steps": 4,
    "batch_size": 16,
    "replay_capacity": 200,
    "precision": "float32",
    "hidden": 16,
    "psi_hidden": 16,
    "zeta_hidden": 16,
    "feature_dim": 8,
    "noise_levels": 50,
    "diffusion_steps": 4,
    "train_samples": 6,
    "eval_samples": 3,
    "particles": 3,
    "agent_start": 0,
    "update_every": 1,
    "denoiser_updates": 1,
    "denoiser_hidden": 16,
    "denoiser_layers": 1,
    "imagined_batch": 16,
    "horizon": 3,
}


def load_template(path: Path) -> type[Agent]:
    """The agent class of a copy of `algos/_template.py` at `path`, a file of another name."""
    path.write_text((algos.FOLDER / "_template.py").read_text())
    return algos.load(str(path))


def make(cls: type[Agent], seeds: Sequence[int], obs_dim: int, action_dim: int, **options) -> Any:
    """An agent on the CPU with exactly `options` changed."""
    return cls(Spaces((obs_dim,), action_dim), build_config(cls.Config, options), seeds)


def make_small(
    cls: type[Agent], seeds: Sequence[int] = (0,), obs_dim: int = 3, action_dim: int = 2, **options
) -> Any:
    """An agent of a few hundred weights; `options` win over `SMALL`."""
    names = {field.name for field in dataclasses.fields(cls.Config)}
    small = {name: value for name, value in SMALL.items() if name in names}
    return make(cls, seeds, obs_dim, action_dim, **(small | options))


def group(cls: type[Agent], *seeds: int) -> tuple[int, ...]:
    """As many of `seeds` as an agent takes at once."""
    return seeds[: cls.max_replicas]


def transition(
    replicas: int = 1,
    obs_dim: int = 3,
    action_dim: int = 2,
    seed: int = 0,
    **fields: Any,
) -> Transition:
    """A random transition; `fields` are numbers or arrays that fill whole fields."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "obs": rng.normal(size=(replicas, obs_dim)),
        "action": rng.uniform(-1, 1, size=(replicas, action_dim)),
        "reward": rng.normal(size=replicas),
        "next_obs": rng.normal(size=(replicas, obs_dim)),
    }
    step = {name: value.astype(np.float32) for name, value in values.items()}
    step |= {"terminated": np.zeros(replicas, bool), "truncated": np.zeros(replicas, bool)}
    for name, value in fields.items():
        step[name] = np.broadcast_to(np.asarray(value, step[name].dtype), step[name].shape).copy()
    return Transition(**step)


class Drift:
    """A task whose noise depends on the seed only: one per replica, alone or in a group."""

    def __init__(self, seeds: Sequence[int], obs_dim: int, action_dim: int) -> None:
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.push = np.random.default_rng(99).normal(size=(action_dim, obs_dim))
        self.obs = np.zeros((len(seeds), obs_dim), np.float32)

    def step(self, action: np.ndarray) -> Transition:
        noise = np.stack([rng.normal(size=self.obs.shape[1]) for rng in self.rngs])
        before = self.obs
        self.obs = (0.8 * before + action @ self.push + 0.1 * noise).astype(np.float32)
        reward = -np.square(self.obs).sum(1).astype(np.float32)
        end = np.array([rng.random() < 0.2 for rng in self.rngs])
        return Transition(before, action, reward, self.obs, end, np.zeros_like(end))


def drive(agent: Any, task: Drift, steps: int) -> tuple[np.ndarray, list[dict[str, torch.Tensor]]]:
    """Act, observe and update `steps` times: actions `[steps, R, A]` and metrics."""
    actions, metrics = [], []
    for _ in range(steps):
        action = agent.act(task.obs[:, None], explore=True)[:, 0]
        agent.observe(task.step(action))
        metrics.append(agent.update())
        actions.append(action)
    return np.stack(actions), metrics


def random_batch(
    replicas: int = 1, size: int = 16, obs_dim: int = 3, action_dim: int = 2, seed: int = 0
) -> Batch:
    """A batch of unrelated numbers."""
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, replicas, size, obs_dim, generator=g)
    action = 2.0 * torch.rand(replicas, size, action_dim, generator=g) - 1.0
    reward = torch.randn(replicas, size, 1, generator=g)
    return Batch(obs, action, reward, next_obs, torch.ones(replicas, size, 1))


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    """Copies of all parameters."""
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def snapshot(agent: Any) -> Any:
    """The agent's state, free of references to live tensors."""
    return copy.deepcopy(agent.state_dict())


class LinearQuadratic:
    """x' = A x + B u + w, reward -(x'Qx + r u²), episodes cut after `HORIZON` steps.

    A mass with friction that stays where it is unless it is pushed back; episodes are short,
    so that no policy drives it far away. The optimum is known: the Riccati equation of
    (sqrt(gamma) A, sqrt(gamma) B) is the discounted one.
    """

    A = np.array([[1.0, 0.3], [0.0, 0.5]])
    B = np.array([[0.0], [0.6]])
    Q = np.diag([1.0, 0.1])
    R = np.array([[0.3]])
    NOISE, START, HORIZON, DISCOUNT = 0.05, 0.5, 15, 0.9

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        self.x, self.age = self.rng.normal(size=2) * self.START, 0

    def step(self, action: np.ndarray) -> Transition:
        """Apply `action` `[1]`; the next episode begins by itself."""
        x = self.x
        reward = -(x @ self.Q @ x + action @ self.R @ action)
        self.x = self.A @ x + self.B @ action + self.NOISE * self.rng.normal(size=2)
        self.age += 1
        cut = self.age == self.HORIZON
        arrays = (x, action, np.array(reward), self.x)
        step = Transition(
            *(np.asarray(a, np.float32)[None] for a in arrays), np.zeros(1, bool), np.array([cut])
        )
        if cut:
            self.reset()
        return step

    @classmethod
    def optimal_gain(cls) -> np.ndarray:
        """K of the optimal u = -K x `[1, 2]`."""
        root, g = np.sqrt(cls.DISCOUNT), cls.DISCOUNT
        p = solve_discrete_are(root * cls.A, root * cls.B, cls.Q, cls.R)
        return np.linalg.solve(cls.R + g * cls.B.T @ p @ cls.B, g * cls.B.T @ p @ cls.A)

    @classmethod
    def mean_return(cls, policy: Any, episodes: int = 200, steps: int = 50) -> float:
        """Discounted return of `policy` (`[N, 2]` to `[N, 1]`), the same draws for each."""
        rng = np.random.default_rng(12345)
        x, total = rng.normal(size=(episodes, 2)) * cls.START, np.zeros(episodes)
        for k in range(steps):
            u = policy(x)
            total -= cls.DISCOUNT**k * (
                np.einsum("ni,ij,nj->n", x, cls.Q, x) + cls.R[0, 0] * u[:, 0] ** 2
            )
            x = x @ cls.A.T + u @ cls.B.T + cls.NOISE * rng.normal(size=x.shape)
        return float(total.mean())

    @classmethod
    def fraction_of_optimum(cls, agent: Any) -> float:
        """How far the agent's evaluation policy is from no action (0) to the optimum (1)."""
        gain = cls.optimal_gain()
        best = cls.mean_return(lambda x: -x @ gain.T)
        idle = cls.mean_return(lambda x: np.zeros((len(x), 1)))
        reached = cls.mean_return(lambda x: agent.act(x[None].astype(np.float32), False)[0])
        return (reached - idle) / (best - idle)

    @classmethod
    def train(cls, agent: Any, steps: int, seed: int = 0) -> None:
        """Let `agent` collect and learn for `steps` steps."""
        task = cls(seed)
        for _ in range(steps):
            action = agent.act(task.x[None, None].astype(np.float32), explore=True)[0, 0]
            agent.observe(task.step(action))
            agent.update()

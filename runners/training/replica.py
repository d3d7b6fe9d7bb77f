"""One seed of a run: its environments, its episode, its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray
from torch import Tensor

import envs
from algos.parts.types import Transition
from runners.cells.cell import Cell
from runners.cells.schema import EVALUATION_COLUMNS, SUCCESS_COLUMNS, TRAIN_COLUMNS
from runners.cells.seeding import derive_seed
from runners.storage.rundir import RunDirectory
from runners.training.tracking import Sinks, open_sinks

Array = NDArray[Any]


class Diverged(Exception):
    """A loss or an action is not finite; the message says which and when."""


def make_env(task: str, seed: int | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make the task with actions in [-1, 1], mapped linearly onto its own box."""
    env = envs.make(task, seed=seed, **options)
    box = env.action_space
    assert isinstance(box, gymnasium.spaces.Box)
    if np.all(box.low == -1.0) and np.all(box.high == 1.0):
        return env
    return RescaleAction(env, np.float32(-1.0), np.float32(1.0))


class Episodes:
    """The evaluation episodes of one seed at one step, in step with each other.

    Start states depend on task, seed index and step alone.

    Args:
        cell: whose they are.
        step: environment steps done in training.
        pool: environments, one for each episode.
    """

    def __init__(self, cell: Cell, step: int, pool: list[gymnasium.Env[Any, Any]]) -> None:
        self.pool, self.step_of_training = pool, step
        count = len(pool)
        axes = ("eval", cell.task, cell.seed, step)
        starts = [env.reset(seed=derive_seed(*axes, i))[0] for i, env in enumerate(pool)]
        self.obs = np.stack(starts)
        self.returns, self.lengths = np.zeros(count), np.zeros(count, int)
        self.success, self.final = np.full(count, np.nan), np.full(count, np.nan)
        self.active = np.ones(count, bool)

    def step(self, actions: Array) -> None:
        """Take one step in every episode that has not ended; actions are `[E, action_dim]`."""
        if not np.isfinite(actions).all():
            raise Diverged(f"evaluation action is not finite at step {self.step_of_training}")
        for i in np.flatnonzero(self.active):
            self.obs[i], reward, terminated, truncated, info = self.pool[i].step(actions[i])
            self.returns[i] += float(reward)
            self.lengths[i] += 1
            if "success" in info:
                self.success[i] = np.fmax(self.success[i], float(info["success"]))
                self.final[i] = float(info.get("success_now", info["success"]))
            self.active[i] = not (terminated or truncated)

    def rows(self) -> list[tuple[int, int, float, int, object, object]]:
        """One row an episode.

        Success counts if any step of the episode reports it; beside it stands that of the last.
        """
        reached, held = (
            ["" if np.isnan(s) else int(s) for s in part] for part in (self.success, self.final)
        )
        return [
            (self.step_of_training, i, total, length, reached[i], held[i])
            for i, (total, length) in enumerate(
                zip(self.returns.tolist(), self.lengths.tolist(), strict=True)
            )
        ]

    def means(self) -> dict[str, float]:
        """Means over the episodes; NaN where the task does not report success."""
        parts = {"return": self.returns, "length": self.lengths, "success": self.success}
        return {name: float(np.mean(values)) for name, values in parts.items()}


class Replica:
    """One seed of a run.

    Args:
        cell: what it is.
        directory: where its files go.

    Attributes:
        end: None while it runs, else its status and the reason: a seed can end alone.
    """

    def __init__(self, cell: Cell, directory: RunDirectory) -> None:
        self.cell, self.directory = cell, directory
        # The streams of the environment do not depend on the algorithm: every method
        # of a seed index meets the same start states.
        self.env = make_env(cell.task, seed=derive_seed("train", cell.task, cell.seed))
        self.eval_envs: list[gymnasium.Env[Any, Any]] = []
        self.obs: Array = np.zeros(0)
        self.episode = {"return": 0.0, "length": 0}
        self.finished = {"return": float("nan"), "length": 0}
        self.last_return: float | None = None
        self.sinks: Sinks | None = None
        # A seed that another run of its group has ended stays as it is.
        done = directory.status() == "done"
        self.end: tuple[str, str] | None = ("done", "") if done else None

    def start(self) -> None:
        """Begin the first episode, with empty files."""
        if self.end is None:
            self.directory.restore({})
        self.obs, _ = self.env.reset()

    def track(self, names: Sequence[str]) -> None:
        """Send what is logged from now on to sinks as well."""
        if names:
            self.sinks = open_sinks(names, self.cell, self.directory, self.cell.config)

    @property
    def notice(self) -> str | None:
        """Why a sink was switched off, if one was."""
        return self.sinks.notices[-1] if self.sinks is not None and self.sinks.notices else None

    def _send(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        if self.sinks is not None:
            self.sinks.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})

    def state(self) -> dict[str, Any]:
        """Everything of this seed that decides the rest of the run, and its files so far."""
        return {
            "obs": self.obs,
            "episode": self.episode,
            "finished": self.finished,
            "last_return": self.last_return,
            "end": self.end,
            "files": self.directory.text,
            "env": envs.save_state(self.env),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.obs, self.last_return = state["obs"], state["last_return"]
        self.episode, self.finished = state["episode"], state["finished"]
        self.end = self.end or state["end"]
        if self.end is None:
            self.directory.restore(state["files"])
        envs.load_state(self.env, state["env"])

    def step(self, action: Array, step: int) -> Transition:
        """Step the environment with an action `[action_dim]`; arrays of the result have R = 1.

        Raises:
            Diverged: the action is not finite.
        """
        if not np.isfinite(action).all():
            raise Diverged(f"action is not finite at step {step}")
        next_obs, reward, terminated, truncated, _ = self.env.step(action.astype(np.float64))
        self.episode["return"] += float(reward)
        self.episode["length"] += 1
        return _transition(self.obs, action, reward, next_obs, terminated, truncated)

    def idle_step(self, action: Array) -> Transition:
        """Return what an ended seed hands the agent of its run: a step that leads nowhere."""
        limit = envs.task(self.cell.task).max_episode_steps
        self.episode["length"] = self.episode["length"] % limit + 1
        cut = self.episode["length"] == limit
        return _transition(self.obs, np.zeros_like(action), 0.0, self.obs, False, cut)

    def move_on(self, transition: Transition) -> None:
        """See the next observation, or begin the next episode."""
        self.obs = transition.next_obs[0]
        if self.end is None and (transition.terminated[0] or transition.truncated[0]):
            self.finished, self.episode = self.episode, {"return": 0.0, "length": 0}
            self.obs, _ = self.env.reset()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write one row of train.csv.

        Raises:
            Diverged: a metric is not finite.
        """
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise Diverged(f"{', '.join(bad)} not finite at step {step}")
        columns = (*TRAIN_COLUMNS, *values)
        row = [step, self.finished["return"], self.finished["length"], *values.values()]
        self.directory.append("train", columns, [row])
        self._send(step, "train", values)

    def episodes(self, step: int) -> Episodes:
        """Begin the evaluation episodes."""
        while len(self.eval_envs) < self.cell.protocol.eval_episodes:
            self.eval_envs.append(make_env(self.cell.task))
        return Episodes(self.cell, step, self.eval_envs)

    def record_evaluation(self, episodes: Episodes) -> None:
        """Write the rows of an evaluation."""
        rows = episodes.rows()
        self.last_return = float(np.mean([row[2] for row in rows]))
        judged = envs.task(self.cell.task).reports_success
        columns = (*EVALUATION_COLUMNS, *SUCCESS_COLUMNS) if judged else EVALUATION_COLUMNS
        self.directory.append("evaluations", columns, [row[: len(columns)] for row in rows])
        self._send(episodes.step_of_training, "eval", episodes.means())

    def close(self) -> None:
        """Close all environments."""
        for env in (self.env, *self.eval_envs):
            env.close()
        if self.sinks is not None:
            self.sinks.close()


def _transition(
    obs: Array, action: Array, reward: Any, next_obs: Array, terminated: Any, truncated: Any
) -> Transition:
    kind = np.uint8 if obs.dtype == np.uint8 else np.float32
    return Transition(
        obs=np.asarray(obs, kind)[None],
        action=action[None],
        reward=np.array([reward], np.float32),
        next_obs=np.asarray(next_obs, kind)[None],
        terminated=np.array([terminated], bool),
        truncated=np.array([truncated], bool),
    )


def joined(steps: list[Transition]) -> Transition:
    """Return the steps of R seeds as one transition with R replicas."""
    if len(steps) == 1:
        return steps[0]
    return Transition(
        *(np.concatenate([getattr(s, name) for s in steps]) for name in Transition.__annotations__)
    )


def part_of(state: Any, single: Any, replica: int) -> Any:
    """Return the part of one replica of a group's state.

    Args:
        state: nested dicts, lists and tensors with R replicas.
        single: the same of one replica, which tells what has a replica axis.
        replica: its index.
    """
    if isinstance(state, dict):
        return {key: part_of(value, single[key], replica) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(part_of(a, b, replica) for a, b in zip(state, single, strict=True))
    if isinstance(state, Tensor) and state.shape != single.shape:
        size = len(single)  # more than 1 where several heads of each replica stand side by side
        return state[replica * size : (replica + 1) * size]
    return state

"""The training loop of one cell: environment, clock, evaluation, files, checkpoints.

The loop knows nothing about any algorithm. At the top of the loop everything that
decides the future is in `state()`; that is the only place where a checkpoint is taken,
so a run that is killed and resumed repeats the same steps bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray
from torch import Tensor

import algos
import envs
from algos.agent import Agent, Spaces, Transition
from algos.config import build_config
from runners import checkpoint, manifest
from runners.grid import agent_for
from runners.process import How
from runners.rundir import Cell, RunDirectory
from runners.seeding import derive_seed

Array = NDArray[Any]

EVALUATION_COLUMNS = ("env_step", "episode", "return", "length", "success")
SUCCESS_COLUMN = "final_success"  # of tasks that report success: at the last step of the episode
DEFAULT = How()
PHASES = ("env", "act", "update", "eval")


class Diverged(Exception):
    """A loss or an action is not finite; the message says which and when."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run sees: steps done and the last evaluation's mean return."""

    step: int
    last_return: float | None


def make_env(task: str, seed: int | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """The task with actions in [-1, 1], mapped linearly onto its own box; see `envs.make`."""
    env = envs.make(task, seed=seed, **options)
    box = env.action_space
    assert isinstance(box, gymnasium.spaces.Box)
    if np.all(box.low == -1.0) and np.all(box.high == 1.0):
        return env
    return RescaleAction(env, np.float32(-1.0), np.float32(1.0))


def make_agent(cell: Cell, device: str) -> Agent:
    """The cell's agent, with one replica."""
    kind, task = agent_for(algos.load(cell.source), cell.task), envs.task(cell.task)
    assert kind is not None, "an unsupported cell is never run"
    config = build_config(kind.Config, cell.config)
    seed = derive_seed("agent", cell.task, cell.algo, cell.seed)
    return kind(Spaces(task.obs_shape, task.action_dim), config, [seed], device)


class Loop:
    """One cell, from its checkpoint or from the start to its last step.

    Args:
        cell: what to run.
        directory: where its files go; already locked.
        how: device, checkpoints and the like.
        should_stop: asked at every step; True saves and raises `Interrupted`.
        report: called with the progress at every step.
    """

    def __init__(
        self,
        cell: Cell,
        directory: RunDirectory,
        how: How = DEFAULT,
        should_stop: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.cell, self.rules, self.directory = cell, cell.protocol, directory
        self.should_stop, self.report = should_stop, report
        self.how = how
        self.agent = make_agent(cell, how.device)
        # The streams of the environment do not depend on the algorithm: every method
        # of a seed index meets the same start states.
        self.env = make_env(cell.task, seed=derive_seed("train", cell.task, cell.seed))
        self.eval_envs: list[gymnasium.Env[Any, Any]] = []
        self.repeat = envs.task(cell.task).action_repeat
        self.step = 0
        self.evaluated = 0
        self.obs: Array = np.zeros(0)
        self.episode = {"return": 0.0, "length": 0}
        self.finished = {"return": float("nan"), "length": 0}
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.last_return: float | None = None
        self.metrics: dict[str, Tensor] = {}

    def start(self) -> bool:
        """Continue from the newest checkpoint, or reset; True if it continues."""
        state = checkpoint.load(self.directory.checkpoints, self.how.frames_on_disk)
        if state is None:
            self.directory.restore({})
            self.obs, _ = self.env.reset()
            return False
        self.load_state(state)
        return True

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, and the files so far."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "obs": self.obs,
            "episode": self.episode,
            "finished": self.finished,
            "seconds": self.seconds,
            "last_return": self.last_return,
            # An agent that does not learn at every step is logged by its latest metrics.
            "metrics": self.metrics,
            "files": self.directory.text,
            "env": envs.save_state(self.env),
            "agent": self.agent.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.obs, self.last_return = state["obs"], state["last_return"]
        self.episode, self.finished = state["episode"], state["finished"]
        self.seconds, self.metrics = state["seconds"], state["metrics"]
        self.directory.restore(state["files"])
        envs.load_state(self.env, state["env"])
        self.agent.load_state_dict(state["agent"])

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Interrupted: `should_stop` said so; the state is saved.
            Diverged: a metric or an action is not finite.
        """
        saved = time.monotonic()
        try:
            while True:
                if self._evaluation_due():
                    self.evaluate()
                if self.step >= self.rules.steps:
                    return
                if self.should_stop():
                    raise Interrupted
                if time.monotonic() - saved >= self.how.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                self.train_step()
                self.report(Progress(self.step, self.last_return))
        except Interrupted:
            self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoint.save(
            self.directory.checkpoints, self.step, self.state(), self.how.frames_on_disk
        )
        self.directory.sync()

    def close(self) -> None:
        """Close all environments."""
        for env in (self.env, *self.eval_envs):
            env.close()

    def train_step(self) -> None:
        """One agent step: act, step the environment, store, learn, log."""
        start = time.perf_counter()
        action = self.agent.act(self.obs[None, None], explore=True)[0, 0]
        if not np.isfinite(action).all():
            raise Diverged(f"action is not finite at step {self.step}")
        acted = time.perf_counter()
        next_obs, reward, terminated, truncated, _ = self.env.step(action.astype(np.float64))
        stepped = time.perf_counter()
        self.agent.observe(_transition(self.obs, action, reward, next_obs, terminated, truncated))
        self.metrics = self.agent.update() or self.metrics
        learned = time.perf_counter()
        self._end_step(next_obs, float(reward), bool(terminated or truncated))
        reset = time.perf_counter()
        self.seconds["act"] += acted - start
        self.seconds["env"] += stepped - acted + reset - learned
        self.seconds["update"] += learned - stepped

    def _end_step(self, next_obs: Array, reward: float, ended: bool) -> None:
        self.obs = next_obs
        self.step += self.repeat
        self.episode["return"] += reward
        self.episode["length"] += 1
        if ended:
            self.finished, self.episode = self.episode, {"return": 0.0, "length": 0}
            self.obs, _ = self.env.reset()
        if _crossed(self.step, self.repeat, self.rules.log_every):
            self._log()

    def _log(self) -> None:
        """Write one row of train.csv; the only place where metrics reach the host."""
        if not self.metrics:
            return
        values = {name: float(value[0]) for name, value in sorted(self.metrics.items())}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise Diverged(f"{', '.join(bad)} not finite at step {self.step}")
        columns = ("env_step", "train_return", "train_length", *values)
        row = [self.step, self.finished["return"], self.finished["length"], *values.values()]
        self.directory.append("train", columns, [row])

    def _evaluation_due(self) -> bool:
        if self.step == self.evaluated:
            return False
        last = self.step >= self.rules.steps
        return last or _crossed(self.step, self.repeat, self.rules.eval_every)

    def evaluate(self) -> None:
        """Run the evaluation episodes as one batch and write their rows."""
        start = time.perf_counter()
        streams = self.agent.eval_rng.state_dict()
        try:
            rows = self._evaluation_rows()
        except Interrupted:
            # As if this evaluation had not begun; it is repeated after the resume.
            self.agent.eval_rng.load_state_dict(streams)
            raise
        self.seconds["eval"] += time.perf_counter() - start
        self.evaluated = self.step
        self.last_return = float(np.mean([row[2] for row in rows]))
        judged = envs.task(self.cell.task).reports_success
        columns = (*EVALUATION_COLUMNS, SUCCESS_COLUMN) if judged else EVALUATION_COLUMNS
        self.directory.append("evaluations", columns, [row[: len(columns)] for row in rows])
        timing = [self.step, *(round(self.seconds[phase], 3) for phase in PHASES)]
        self.directory.append("timing", ("env_step", *PHASES), [timing])
        self.report(Progress(self.step, self.last_return))

    def _evaluation_rows(self) -> list[tuple[int, int, float, int, object, object]]:
        """Episodes with start states that depend on task, seed index and step alone.

        Success counts if any step of the episode reports it; beside it stands that of the last.
        """
        count = self.rules.eval_episodes
        while len(self.eval_envs) < count:
            self.eval_envs.append(make_env(self.cell.task))
        axes = ("eval", self.cell.task, self.cell.seed, self.step)
        starts = [env.reset(seed=derive_seed(*axes, i))[0] for i, env in enumerate(self.eval_envs)]
        obs = np.stack(starts)
        returns, lengths = np.zeros(count), np.zeros(count, int)
        success, final = np.full(count, np.nan), np.full(count, np.nan)
        active = np.ones(count, bool)
        while active.any():
            if self.should_stop():
                raise Interrupted
            actions = self.agent.act(obs[None], explore=False)[0].astype(np.float64)
            if not np.isfinite(actions).all():
                raise Diverged(f"evaluation action is not finite at step {self.step}")
            for i in np.flatnonzero(active):
                obs[i], reward, terminated, truncated, info = self.eval_envs[i].step(actions[i])
                returns[i] += float(reward)
                lengths[i] += 1
                if "success" in info:
                    success[i] = np.fmax(success[i], float(info["success"]))
                    final[i] = float(info.get("success_now", info["success"]))
                active[i] = not (terminated or truncated)
        reached, held = (["" if np.isnan(s) else int(s) for s in part] for part in (success, final))
        return [
            (self.step, i, float(returns[i]), int(lengths[i]), reached[i], held[i])
            for i in range(count)
        ]


def _transition(
    obs: Array, action: Array, reward: Any, next_obs: Array, terminated: Any, truncated: Any
) -> Transition:
    """A step of the one replica of this loop."""
    kind = np.uint8 if obs.dtype == np.uint8 else np.float32
    return Transition(
        obs=np.asarray(obs, kind)[None],
        action=action[None],
        reward=np.array([reward], np.float32),
        next_obs=np.asarray(next_obs, kind)[None],
        terminated=np.array([terminated], bool),
        truncated=np.array([truncated], bool),
    )


def _crossed(step: int, size: int, every: int) -> bool:
    """Whether the step that ended at `step` passed a multiple of `every`."""
    return step // every > (step - size) // every


def run_cell(
    cell: Cell,
    experiment: Path,
    how: How = DEFAULT,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """Run one cell to its end and record how it ended in run.json.

    Returns:
        The status: `done`, `failed` or `diverged`; `running` if another process has
        the cell.

    Raises:
        Interrupted: it was asked to stop; the same call continues it.
        CheckpointError: its checkpoint is damaged; nothing was changed.
        UserError: its folder holds a run with other values.
    """
    directory = RunDirectory(cell, experiment)
    if directory.status() == "done":
        return "done"
    if not directory.lock():
        return "running"
    if directory.status() == "done":  # another process ended it just before the lock
        return "done"
    record = directory.read_manifest() or manifest.build(cell, how.device)
    loop: Loop | None = None
    began, before = time.monotonic(), float(record["wall_seconds"])

    def finish(status: str, reason: str | None = None) -> str:
        seconds = round(before + time.monotonic() - began, 1)
        record.update(status=status, reason=reason, wall_seconds=seconds, ended=manifest.now())
        directory.write_manifest(record)
        return status

    try:
        loop = Loop(cell, directory, how, should_stop, report)
        if loop.start():
            record["resumed"] += 1
            if record["code"] != manifest.code_version():
                record["earlier_code"] = [*record.get("earlier_code", []), record["code"]]
        else:
            record = manifest.build(cell, how.device)
            before = 0.0
        record.update(status="running", reason=None, code=manifest.code_version())
        directory.write_manifest(record)
        loop.run()
        directory.restore(directory.text)  # whole and on the disk before it counts as done
    except Interrupted:
        finish("running")
        raise
    except Diverged as error:
        return finish("diverged", str(error))
    except checkpoint.CheckpointError:
        raise
    except Exception as error:
        return finish("failed", _reason(error))
    finally:
        if loop is not None:
            loop.close()
    # In this order: a kill in between must not leave an unfinished cell without checkpoint.
    checkpoint.save(directory.policy, loop.step, loop.agent.policy_state())
    finish("done")
    checkpoint.remove(directory.checkpoints)
    return "done"


def _reason(error: Exception) -> str:
    """One line: what went wrong and in which line of code."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = (
        ""
        if frame is None
        else f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})"
    )
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"

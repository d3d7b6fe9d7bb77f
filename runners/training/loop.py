"""The training loop of one run: agent, clock, evaluation, checkpoints.

A run trains one or more seeds of one (task, algorithm, options) side by side, as the
replicas of one agent; each seed has its own environment and files (`runners.training.replica`). The
loop knows nothing about any algorithm. At the top of the loop everything that decides the
future is in `state()`; that is the only place where a checkpoint is taken, so a run that is
killed and resumed repeats the same steps bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import algos
import envs
from algos.base.agent import Agent
from algos.parts.config import build_config
from algos.parts.types import Spaces, Transition
from runners.cells.cell import Run
from runners.cells.grid import agent_for
from runners.cells.schema import PHASES, TIMING_COLUMNS
from runners.cells.seeding import derive_seed
from runners.cells.settings import RunSettings
from runners.storage import checkpoint
from runners.storage.lease import LeaseLost
from runners.storage.rundir import RunDirectory
from runners.training.replica import Diverged, Episodes, Replica, joined

Array = NDArray[Any]

DEFAULT = RunSettings()


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run sees.

    Attributes:
        step: environment steps done.
        returns: mean return of each seed's last evaluation.
        notice: what a person should know, if anything.
    """

    step: int
    returns: tuple[float | None, ...]
    notice: str | None = None


def make_agent(run: Run, device: str) -> Agent:
    """Return the agent of a run, with one replica for each cell."""
    cell = run[0]
    kind, task = agent_for(algos.load(cell.source), cell.task), envs.task(cell.task)
    assert kind is not None, "an unsupported cell is never run"
    config = build_config(kind.Config, cell.config)
    seeds = [derive_seed("agent", c.task, c.algo, c.seed) for c in run]
    return kind(Spaces(task.obs_shape, task.action_dim), config, seeds, device)


def reason_of(error: Exception) -> str:
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


class Loop:
    """One run, from its checkpoint or from the start to its last step.

    Args:
        run: its cells.
        directories: where the files of each go; already locked. The checkpoints of all
            lie with the first.
        settings: device, checkpoints and the like.
        should_stop: asked at every step; True saves and raises `Interrupted`.
        report: called with the progress at every step, of evaluations too.
    """

    def __init__(
        self,
        run: Run,
        directories: Sequence[RunDirectory],
        settings: RunSettings = DEFAULT,
        should_stop: Callable[[], bool] = lambda: False,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.cell, self.protocol, self.settings = run[0], run[0].protocol, settings
        self.should_stop, self.report = should_stop, report
        self.checkpoints = directories[0].checkpoints
        self.agent = make_agent(run, settings.device)
        self.replicas = [Replica(c, d) for c, d in zip(run, directories, strict=True)]
        self.repeat = envs.task(self.cell.task).action_repeat
        self.step = 0
        self.evaluated = 0
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.metrics: dict[str, Tensor] = {}
        self.notice: str | None = None
        self.saved: Path | None = None  # the checkpoint that was loaded or written last

    @property
    def active(self) -> list[Replica]:
        """The seeds that have not ended."""
        return [replica for replica in self.replicas if replica.end is None]

    def start(self) -> bool:
        """Continue from the newest checkpoint, or reset; True if it continues."""
        loaded = checkpoint.load(self.checkpoints, self.settings.frames_on_disk)
        if loaded is None:
            for replica in self.replicas:
                replica.start()
            return False
        self.saved, self.notice = loaded.path, loaded.notice
        self.load_state(loaded.state)
        return True

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, and the files so far."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
            # An agent that does not learn at every step is logged by its latest metrics.
            "metrics": self.metrics,
            "replicas": [replica.state() for replica in self.replicas],
            "agent": self.agent.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.seconds, self.metrics = state["seconds"], state["metrics"]
        for replica, part in zip(self.replicas, state["replicas"], strict=True):
            replica.load_state(part)
        self.agent.load_state_dict(state["agent"])

    def run(self) -> None:
        """Train to the last step, or until no seed is left.

        Raises:
            Interrupted: `should_stop` said so; the state is saved.
            LeaseLost: another process has taken the run over.
        """
        for replica in self.active:
            replica.track(self.settings.track)
        saved = time.monotonic()
        try:
            while self.active:
                if self._evaluation_due():
                    self.evaluate()
                if self.step >= self.protocol.steps:
                    return
                if self.should_stop():
                    raise Interrupted
                if time.monotonic() - saved >= self.settings.checkpoint_seconds:
                    self._save_if_possible()
                    saved = time.monotonic()
                self.train_step()
                self.report_progress()
        except Interrupted:
            self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint."""
        for replica in self.replicas:
            replica.directory.check()
        self.saved = checkpoint.save(
            self.checkpoints, self.step, self.state(), self.settings.frames_on_disk, self.saved
        )
        for replica in self.replicas:
            replica.directory.sync()

    def _save_if_possible(self) -> None:
        """Save, and go on where the disk is full: it may not be at the next checkpoint."""
        try:
            self.save()
        except OSError as error:
            self.notice = f"no checkpoint at step {self.step} ({error.strerror or error})"

    def close(self) -> None:
        """Close all environments."""
        for replica in self.replicas:
            replica.close()

    def report_progress(self) -> None:
        """Show how far the run is."""
        for replica in self.active:
            replica.directory.beat(self.step, replica.last_return)
        returns = tuple(replica.last_return for replica in self.replicas)
        off = [replica.notice for replica in self.replicas if replica.notice]
        notice = self.notice or self.agent.notice or (off[0] if off else None)
        self.report(Progress(self.step, returns, notice))

    def train_step(self) -> None:
        """One agent step of every seed: act, step the environment, store, learn, log."""
        start = time.perf_counter()
        obs = np.stack([replica.obs for replica in self.replicas])
        actions = self.agent.act(obs[:, None], explore=True)[:, 0]
        acted = time.perf_counter()
        steps = [self._step(*pair) for pair in zip(self.replicas, actions, strict=True)]
        if not self.active:
            return
        stepped = time.perf_counter()
        self.agent.observe(joined(steps))
        self.metrics = self.agent.update() or self.metrics
        learned = time.perf_counter()
        self.step += self.repeat
        for replica, step in zip(self.replicas, steps, strict=True):
            with self._alone(replica):
                replica.move_on(step)
        if _crossed(self.step, self.repeat, self.protocol.log_every):
            self._log()
        reset = time.perf_counter()
        self.seconds["act"] += acted - start
        self.seconds["env"] += stepped - acted + reset - learned
        self.seconds["update"] += learned - stepped

    def _step(self, replica: Replica, action: Array) -> Transition:
        if replica.end is None:
            with self._alone(replica):
                return replica.step(action, self.step)
        return replica.idle_step(action)

    @contextmanager
    def _alone(self, replica: Replica) -> Iterator[None]:
        """End a seed with which something goes wrong, and no other."""
        try:
            yield
        except (Interrupted, LeaseLost):
            raise
        except Diverged as error:
            replica.end = "diverged", str(error)
        except Exception as error:
            replica.end = "failed", reason_of(error)

    def _log(self) -> None:
        """Write one row of train.csv; the only place where metrics reach the host."""
        if not self.metrics:
            return
        values = {name: value.tolist() for name, value in sorted(self.metrics.items())}
        for r, replica in enumerate(self.replicas):
            if replica.end is None:
                with self._alone(replica):
                    replica.log(self.step, {name: value[r] for name, value in values.items()})

    def _evaluation_due(self) -> bool:
        if self.step == self.evaluated:
            return False
        last = self.step >= self.protocol.steps
        return last or _crossed(self.step, self.repeat, self.protocol.eval_every)

    def evaluate(self) -> None:
        """Run the evaluation episodes of all seeds as one batch and write their rows."""
        start = time.perf_counter()
        streams = self.agent.eval_rng.state_dict()
        try:
            batches = self._play()
        except Interrupted:
            # As if this evaluation had not begun; it is repeated after the resume.
            self.agent.eval_rng.load_state_dict(streams)
            raise
        self.seconds["eval"] += time.perf_counter() - start
        self.evaluated = self.step
        timing = [self.step, *(round(self.seconds[phase], 3) for phase in PHASES)]
        for replica, episodes in zip(self.replicas, batches, strict=True):
            if episodes is not None and replica.end is None:
                with self._alone(replica):
                    replica.record_evaluation(episodes)
                    replica.directory.append("timing", TIMING_COLUMNS, [timing])
        self.report_progress()

    def _play(self) -> list[Episodes | None]:
        """Play the evaluation episodes to their ends; None for seeds that have ended."""
        batches: list[Episodes | None] = []
        for replica in self.replicas:
            batches.append(None)
            if replica.end is None:
                with self._alone(replica):
                    batches[-1] = replica.episodes(self.step)
        seen = next((batch.obs for batch in batches if batch is not None), None)
        while any(batch is not None and batch.active.any() for batch in batches):
            if self.should_stop():
                raise Interrupted
            assert seen is not None
            obs = np.stack([seen if batch is None else batch.obs for batch in batches])
            actions = self.agent.act(obs, explore=False).astype(np.float64)
            for r, (replica, batch) in enumerate(zip(self.replicas, batches, strict=True)):
                if batch is not None:
                    with self._alone(replica):
                        batch.step(actions[r])
                if replica.end is not None:
                    batches[r] = None
            self.report_progress()
        return batches


def _crossed(step: int, size: int, every: int) -> bool:
    """Whether the step that ended at `step` passed a multiple of `every`."""
    return step // every > (step - size) // every

"""Sinks: metrics of a run, sent to TensorBoard, Weights & Biases or Trackio as well.

No result depends on them. `evaluations.csv` and `train.csv` are written whether or not there is a
sink, one that fails is switched off with a notice, and the global random streams are as they were
after each call: importing trackio, for one, changes that of `random`.

Everything goes below `<experiment>/.tracking/`, and from there to a server where the user has set
one up (`wandb login`, `TRACKIO_SPACE_ID`):

    tensorboard --logdir results/quick/.tracking/tensorboard
    wandb sync results/quick/.tracking/wandb/offline-run-*
    TRACKIO_DIR=results/quick/.tracking/trackio trackio show
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import io
import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.storage.rundir import RunDirectory

FOLDER = ".tracking"
WAIT_SECONDS = 30.0  # for a server, at the start and at the end of a run


class Sink(Protocol):
    """Where the metrics of one cell go. Whatever it raises switches it off."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one environment step, all finite."""

    def close(self) -> None:
        """Write what is not written yet."""


@dataclass(frozen=True)
class Target:
    """What a sink has to know of a run.

    Attributes:
        folder: where all sinks of the experiment write.
        project: the experiment's name, in letters that every sink takes.
        cell: the cell.
        config: what to show as its settings.
        kept: last step in the run's files; what a sink got behind it was before a kill and will
            be told once more. -1 for a run from the start.
    """

    folder: Path
    project: str
    cell: Cell
    config: Mapping[str, Any]
    kept: int


class TensorBoard:
    """Event files, one folder for each cell."""

    def __init__(self, target: Target) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = target.cell.path(target.folder / "tensorboard")
        # Makes readers drop what was logged behind the checkpoint before a kill.
        purge = target.kept + 1
        self.writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Sink`."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, with the cell's identity as its id."""

    def __init__(self, target: Target) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, init_timeout=WAIT_SECONDS, finish_timeout=WAIT_SECONDS
        )
        self.run = wandb.init(
            project=target.project,
            name=target.cell.name,
            group=f"{target.cell.task} {target.cell.label}",
            id=target.cell.identity,
            # A run from the start replaces what another one with its id has left.
            resume="allow" if target.kept >= 0 else None,
            reinit="create_new",  # seeds of one process have a run each
            dir=str(target.folder),
            config=dict(target.config),
            settings=settings,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        if step >= self.run.step:  # else told before a kill: it would be refused with a warning
            self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Sink`."""
        self.run.finish()


class Trackio:
    """A run of Trackio, with the cell's identity in its name, which is what it resumes by."""

    def __init__(self, target: Target) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(target.folder / "trackio"))
        with _quiet():
            import trackio

            # In a context of its own: it ends the run that it finds in the present one, and
            # seeds of one process have a run each.
            self.run = contextvars.copy_context().run(
                trackio.init,
                project=target.project,
                name=f"{target.cell.name} {target.cell.identity}",
                group=f"{target.cell.task} {target.cell.label}",
                resume="allow",
                config=dict(target.config),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Sink`."""
        with _quiet():
            self.run.finish()


SINKS: Mapping[str, Callable[[Target], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}
"""The sinks by name, which is that of the package too."""


class Sinks:
    """The sinks of one cell.

    Args:
        names: which ones.
        target: what they have to know.

    Attributes:
        notices: why sinks were switched off, a line each.
    """

    def __init__(self, names: Sequence[str], target: Target) -> None:
        self.notices: list[str] = []
        self._open: dict[str, Sink] = {}
        for name in names:
            with self._guarded(name):
                self._open[name] = SINKS[name](target)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send values of one environment step; those that are not finite are left out.

        Args:
            step: environment step.
            values: by name, for example `train/loss` or `eval/return`.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name, sink in list(self._open.items()) if finite else ():
            with self._guarded(name):
                sink.scalars(step, finite)

    def close(self) -> None:
        """Write what is not written yet; nothing can be sent any more."""
        while self._open:
            name, sink = self._open.popitem()
            with self._guarded(name):
                sink.close()

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Whatever a sink does wrong ends this sink, not the run."""
        with _streams_kept():
            try:
                yield
            except Exception as error:
                self._open.pop(name, None)
                text = " ".join(str(error).split())
                self.notices.append(f"--track {name} is off: {type(error).__name__}: {text}")


def check_sinks(text: str | None) -> tuple[str, ...]:
    """Return the sinks that a user names in a comma list, each once.

    Raises:
        UserError: one is unknown or not installed.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text else ()
    for name in names:
        if name not in SINKS:
            raise UserError(f"--track {name}: valid sinks are {', '.join(SINKS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--track {name}: the package {name} is not installed; "
                "pip install -e '.[tracking]' brings it"
            )
    if "wandb" in names:
        _check_account()
    return names


def _check_account() -> None:
    """Workers cannot ask for a key, and in a terminal the question would break the table."""
    import wandb

    online = wandb.setup().settings.mode == "online"
    if online and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "--track wandb: not logged in; run `wandb login`, or set WANDB_MODE=offline "
            "to keep the runs on this disk"
        )


def open_sinks(
    names: Sequence[str], cell: Cell, directory: RunDirectory, config: Mapping[str, Any]
) -> Sinks:
    """Open the sinks of a cell whose files stand as its checkpoint left them.

    Args:
        names: of `SINKS`.
        cell: the cell.
        directory: its files, after `Loop.start`.
        config: what to show as its settings.
    """
    experiment = directory.path.resolve().parents[3]
    project = re.sub(r"[^\w.-]", "-", experiment.name)[:100]
    facts = {"task": cell.task, "algo": cell.algo, "label": cell.label, "seed": cell.seed}
    kept = max(_last_step(directory.text[name]) for name in ("evaluations", "train"))
    return Sinks(names, Target(experiment / FOLDER, project, cell, facts | dict(config), kept))


def _last_step(text: str) -> int:
    """Return the step in the last row of a CSV file, -1 if it has none."""
    return int(text.rstrip().rpartition("\n")[2].partition(",")[0]) if text else -1


@contextlib.contextmanager
def _streams_kept() -> Iterator[None]:
    """Put the global random streams back to where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Trackio prints whatever it does."""
    return contextlib.redirect_stdout(io.StringIO())

"""Ray launcher: each run is a task of a Ray cluster whose machines share the experiment folder.

Ray schedules, and retries what a lost machine or a dead worker left; the run goes on from its
checkpoint. Each task has a worker process of its own, so that nothing is left of the one before.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners import THREAD_ENVIRONMENT
from runners.cells.cell import Run
from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.launchers.follow import Follower
from runners.launchers.remote import Needs, Origin, run_watched
from runners.terminal.progress import View
from runners.training.worker import Message, StopFlag

if TYPE_CHECKING:
    from ray import ObjectRef

TICK_SECONDS = 0.5
CONNECT_SECONDS = 5.0
ASK_SECONDS = 120.0  # a machine's first task starts a process that imports torch
RETRIES = 3
# A worker that dies on one machine and is retried on another finds a claim; without a limit a
# run that kills every worker would go round for ever.
MOST_BEGINNINGS = 10


class RayLauncher:
    """Runs cells on a Ray cluster.

    Args:
        address: `auto` for the cluster of this machine, or HOST:PORT of its head.
        settings: device, checkpoints and the like, for every task.
        needs: what each task takes of a machine.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or none of its machines
            has what a run needs.
    """

    stopped = "stopped and saved; run the same command to go on"

    def __init__(self, address: str, settings: RunSettings, needs: Needs) -> None:
        needs.check(settings.device)
        self.settings, self.needs = settings, needs
        _connect(address)
        self.nodes = _nodes_for(needs)

    def run(self, runs: Sequence[Run], experiment: Path, view: View) -> bool:
        """Run all; returns False if it was asked to stop before the end.

        Raises:
            UserError: a machine does not see the folder, or has other versions.
        """
        import ray

        self.follower = Follower(runs, experiment.absolute(), view)
        self.tasks: dict[ObjectRef[Message], Run] = {}
        self.begun: dict[str, int] = {}
        try:
            self._ask_nodes(Origin.here(runs))
            self._submit([run for run in runs if not self.follower.is_elsewhere(run)])
            with StopFlag() as stop:  # after the connection, which sets handlers of its own
                return self._attend(view, stop)
        finally:
            ray.shutdown()

    def _attend(self, view: View, stop: StopFlag) -> bool:
        import ray

        asked = False
        while self.tasks or (self.follower.elsewhere and not asked):
            self._collect(asked)
            freed = self.follower.poll()
            if not asked:
                self._submit(freed)
            if stop() and not asked:
                asked = True
                for task in self.tasks:
                    ray.cancel(task)
            view.refresh()
        return not asked

    def _submit(self, runs: Sequence[Run]) -> None:
        import ray

        needs = self.needs
        task = ray.remote(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_calls=1, max_retries=RETRIES
        )(_task)
        if needs.memory_gb is not None:
            task = task.options(memory=int(needs.memory_gb * 2**30))
        for run in runs:
            name = run[0].name
            self.begun[name] = self.begun.get(name, 0) + 1
            if self.begun[name] > MOST_BEGINNINGS:
                self.follower.mark_failed(run, f"begun {MOST_BEGINNINGS} times, and lost each time")
                continue
            self.tasks[task.remote(run, self.follower.experiment, self.settings)] = run
            self.follower.follow(run)

    def _collect(self, asked: bool) -> None:
        """Wait a moment for tasks to end, and take in those that did."""
        import ray

        if not self.tasks:
            time.sleep(TICK_SECONDS)
            return
        every = list(self.tasks)
        ended, _ = ray.wait(every, num_returns=len(every), timeout=TICK_SECONDS)
        for task in ended:
            self._take(task, self.tasks.pop(task), asked)

    def _take(self, task: ObjectRef[Message], run: Run, asked: bool) -> None:
        import ray
        from ray.exceptions import RayError, TaskCancelledError

        try:
            last = ray.get(task)
        except TaskCancelledError:
            self.follower.leave(run)  # it was in the queue, or its process had not begun
            return
        except RayError as error:
            self.follower.mark_failed(run, _reason(error))
            return
        if not asked and any(end.status == "stopped" for end in last.ends or ()):
            self._submit([run])  # its machine is being shut down; it goes on on another one
        else:
            self.follower.end(run, last)

    def _ask_nodes(self, origin: Origin) -> None:
        """Have each machine that could get a run look for the folder and the versions."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Pinned

        ask = ray.remote(num_cpus=0, max_calls=1)(_ask)
        with _token(self.follower.experiment) as token:
            answers = {}
            for node in self.nodes:
                pinned = ask.options(scheduling_strategy=Pinned(node["NodeID"], soft=False))
                answers[pinned.remote(token, origin)] = node["NodeManagerHostname"]
            here, late = ray.wait(list(answers), num_returns=len(answers), timeout=ASK_SECONDS)
            for answer in here:
                try:
                    problem = ray.get(answer)
                except RayError as error:
                    problem = f"cannot do runs: {_reason(error)}"
                if problem is not None:
                    raise UserError(f"--launcher ray: machine {answers[answer]} {problem}")
            for answer in late:
                raise UserError(
                    f"--launcher ray: machine {answers[answer]} gave no answer "
                    f"within {ASK_SECONDS:g} s"
                )


def _task(run: Run, experiment: Path, settings: RunSettings) -> Message:
    """Do what a Ray worker does; to cancel it is to send it SIGINT: it saves and ends."""
    return run_watched(run, experiment, settings, StopFlag())


def _ask(token: Path, origin: Origin) -> str | None:
    """Return what is wrong with this machine, in a line that follows its name, or None."""
    folder = token.parent
    try:
        if token.read_text() != token.name:
            return f"sees another {folder}"
    except OSError:
        return f"does not see {folder}: the experiment must be in a folder that all share"
    try:
        (folder / f"{token.name}-{uuid.uuid4().hex}").touch(exist_ok=False)
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror})"
    return origin.difference()


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """Return a file by which a machine knows the folder."""
    token = folder / f".token-{uuid.uuid4().hex}"
    token.write_text(token.name)
    try:
        yield token
    finally:
        for file in folder.glob(f"{token.name}*"):
            file.unlink(missing_ok=True)


def _connect(address: str) -> None:
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            "--launcher ray: Ray is not installed; pip install -e '.[cluster]'"
        ) from None
    if address != "auto":
        _check_reachable(address)
    try:
        # Threads are set before a worker starts: it imports torch before the task begins.
        ray.init(
            address=address,
            runtime_env={"env_vars": THREAD_ENVIRONMENT},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError:
        raise UserError(
            f"--address {address}: no Ray cluster on this machine; "
            "start one with `ray start --head`, or name another's HOST:PORT"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(f"--address {address}: {lines[0] if lines else error!r}") from None


def _check_reachable(address: str) -> None:
    """Find out in seconds that nobody is there; Ray takes a minute, and ends the process."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"--address {address}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: no Ray cluster there ({error.strerror or error})"
        ) from None


def _nodes_for(needs: Needs) -> list[Mapping[str, Any]]:
    """Return the machines of the cluster that can take a run."""
    import ray

    wanted = {"CPU": needs.cpus, "GPU": needs.gpus}
    if needs.memory_gb is not None:
        wanted["memory"] = needs.memory_gb * 2**30
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = [
        node
        for node in nodes
        if all(node["Resources"].get(name, 0.0) >= count for name, count in wanted.items())
    ]
    if not able:
        there = "; ".join(_resources(node) for node in nodes)
        memory = "" if needs.memory_gb is None else f", {needs.memory_gb:g} GB"
        raise UserError(
            f"--launcher ray: no machine has what a run needs ({needs.cpus:g} CPUs, "
            f"{needs.gpus:g} GPUs{memory}); there are: {there}"
        )
    return able


def _resources(node: Mapping[str, Any]) -> str:
    found = node["Resources"]
    return (
        f"{node['NodeManagerHostname']} with {found.get('CPU', 0):g} CPUs, "
        f"{found.get('GPU', 0):g} GPUs, {found.get('memory', 0) / 2**30:.0f} GB"
    )


def _reason(error: Exception) -> str:
    """One line of a Ray error; of an exception in a task the last one, which names it."""
    from ray.exceptions import RayTaskError

    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, RayTaskError) else 0].strip()

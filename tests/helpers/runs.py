"""Small runs, agents that misbehave, and commands in forked processes that can be killed."""

import dataclasses
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import algos
from algos.base.agent import Agent
from algos.base.offpolicy import Counters
from algos.parts.blocks import Ring, Rows
from algos.parts.config import AgentConfig
from runners import sweep, train
from runners.cells import files
from runners.cells.grid import agent_for, make_cells
from runners.cells.protocols import PROTOCOLS, Protocol
from runners.conformance.harness import SMALL
from runners.launchers.local import PRELOAD
from runners.storage import checkpoint
from runners.terminal.cli import run_main
from runners.training.loop import Loop
from runners.training.process import setup_process
from runners.training.worker import work

ROOT = Path(__file__).parents[2]
FILES = ("evaluations.csv", "train.csv")
TINY = Protocol(
    name="tiny",
    tasks=("mbbl/Pendulum",),
    seeds=1,
    steps=60,
    random_steps=10,
    eval_every=20,
    eval_episodes=2,
    log_every=10,
    reported=("last",),
    reduced=True,
)
CHAOS = Protocol(
    name="chaos",
    tasks=("mbbl/HalfCheetah", "mbbl/Ant"),
    seeds=1,
    steps=60,
    random_steps=20,
    eval_every=30,
    eval_episodes=2,
    log_every=10,
    reported=("last",),
    reduced=True,
)

# Episodes of 20 agent steps of 50 simulator steps each, seen in pictures of 20 x 20 pixels.
PIXEL_TASK = "dmc/cartpole-balance@pixels+size=20+frames=2+action_repeat=50"
CHAOS_PIXELS = dataclasses.replace(
    CHAOS,
    name="chaos-pixels",
    tasks=(PIXEL_TASK,),
    steps=3_000,
    random_steps=1_000,
    eval_every=1_500,
    log_every=500,
)


class Still(Agent):
    """Acts by a function of each coordinate alone, so that batches cannot change a bit."""

    title = "Still"
    paper = "none"
    Config = AgentConfig
    presets = {"quick": {"batch_size": 8}, "wide": {"batch_size": 9}}  # noqa: RUF012

    def __init__(self, spaces, config, seeds, device="cpu"):
        super().__init__(spaces, config, seeds, device)
        self.counters = Counters()

    def policy(self, obs, explore, rng):
        action = torch.sin(3.0 * obs[..., :1]).expand(*obs.shape[:2], self.spaces.action_dim)
        noise = 0.1 * rng.normal(*action.shape[1:]) if explore else 0.0
        return (action + noise).clone()

    def observe(self, transition):
        self.counters.steps += 1

    def update(self):
        return {"steps": torch.full((self.replicas,), float(self.counters.steps))}


class Rare(Still):
    """Learns at every seventh step only, with metrics that tell which."""

    def update(self):
        return super().update() if self.counters.steps % 7 == 0 else {}


class Dreams(Still):
    """Draws noise in evaluation too."""

    def policy(self, obs, explore, rng):
        return super().policy(obs, explore, rng) + 0.1 * rng.normal(*obs.shape[1:-1], 1)


class Raises(Still):
    def update(self):
        if self.counters.steps > 15:
            raise ValueError("two\nlines with [/bold] markup")
        return super().update()


class CannotStart(Still):
    def __init__(self, *arguments):
        raise MemoryError("too large")


class NotFinite(Still):
    def update(self):
        return {"loss": torch.full((self.replicas,), float("nan"))}


class BadAction(Still):
    def policy(self, obs, explore, rng):
        return super().policy(obs, explore, rng) * (float("nan") if not explore else 1.0)


class Exits(Still):
    def update(self):
        os._exit(7)


class Killed(Still):
    def update(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Still):
    def update(self):
        time.sleep(0.05)
        return super().update()


class HangsAlways(Still):
    def update(self):
        if self.counters.steps == 15:
            time.sleep(10_000)
        return super().update()


class Hangs(Still):
    """Hangs at step 15, unless it was resumed."""

    resumed = False

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.resumed = True

    def update(self):
        if self.counters.steps == 15 and not self.resumed:
            time.sleep(10_000)
        return super().update()


class Hungry(Still):
    """Asks for more memory than its process may have."""

    def update(self):
        if self.counters.steps > 15:
            size = 1 << 30
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
            self.hoard = torch.ones(size)
        return super().update()


FAKES = {kind.__name__.lower(): kind for kind in Still.__subclasses__()} | {"still": Still}


def load_fake(name, real=algos.load):
    return FAKES[name] if name in FAKES else real(name)


def work_with_fakes(*arguments):
    """What a worker runs in its own process; a patch of the parent would not reach it."""
    algos.load = load_fake
    work(*arguments)


def cell_of(algo="still", task="mbbl/Pendulum", seed=0, protocol=TINY, sets=()):
    (cell,) = make_cells([algo], [task], [seed], protocol, sets)
    return cell


def files_of(folder):
    return {name: (Path(folder) / name).read_bytes() for name in FILES}


def snapshot(folder):
    """Every file below a folder with its bytes and time of change."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def agent_of(algo, task):
    """The agent's class for the observations of a task."""
    return agent_for(algos.load(algo), task)


def small_options(algo, prefix="", task="mbbl/Pendulum"):
    """What makes `algo@quick` still smaller, as for the conformance rules; for any algorithm."""
    names = agent_of(algo, task).Config.__dataclass_fields__.keys() - {"random_steps"}
    return [f"--set={prefix}{name}={value}" for name, value in SMALL.items() if name in names]


# Commands in forked processes -------------------------------------------------------


def _run(command, arguments, log, plan):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    setup_process()
    PROTOCOLS.update({rules.name: rules for rules in (TINY, CHAOS, CHAOS_PIXELS)})
    Rows.SIZE, Ring.BYTES = 16, 1 << 10  # so that short runs have blocks too
    if plan is not None:
        _arm(*plan)
    main = {"train": train.main, "sweep": sweep.main}[command]
    run_main(lambda: main(arguments))


def _arm(place, step, count):
    """Kill this process at the `count`-th visit of a place at or after a step.

    It waits for the first checkpoint, so that every kill is followed by a resume.
    """
    seen = 0

    def visit(loop):
        nonlocal seen
        saved = any(loop.checkpoints.glob("step-*"))
        if loop.step >= step and saved:
            seen += 1
            if seen >= count:
                os.kill(os.getpid(), signal.SIGKILL)

    original = {"train": Loop.train_step, "save": Loop.save, "evaluation": Loop.evaluate}[place]

    def train_step(loop):
        original(loop)
        visit(loop)

    def save(loop):
        sync = files.sync

        def syncing(path):
            sync(path)
            visit(loop)

        files.sync = checkpoint.sync = syncing
        original(loop)
        files.sync = checkpoint.sync = sync

    def evaluate(loop):
        stop = loop.should_stop

        def asked():
            visit(loop)
            return stop()

        loop.should_stop = asked
        original(loop)
        loop.should_stop = stop

    name = {"train": "train_step", "save": "save", "evaluation": "evaluate"}[place]
    setattr(Loop, name, {"train": train_step, "save": save, "evaluation": evaluate}[place])


class Forked:
    """A command of the runner in a forked process that has torch loaded already.

    Args:
        command: `train` or `sweep`.
        arguments: its command line.
        log: file that takes what it prints.
        plan: where to kill itself: place (`train`, `save`, `evaluation`), step, visit.
    """

    def __init__(self, command, arguments, log, plan=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.log = Path(log)
        self.log.unlink(missing_ok=True)
        self.process = context.Process(target=_run, args=(command, arguments, str(log), plan))
        self.process.start()

    @property
    def output(self):
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait(self, seconds=120):
        """Its exit code; minus the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.output
        return self.process.exitcode


def spawn(module, arguments, log):
    """The real command line, in a session of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with Path(log).open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )


def wait_until(condition, seconds=60.0, what="nothing"):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def group_members(group):
    """Processes of a group that are no zombies."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            members.append(name)
    return members

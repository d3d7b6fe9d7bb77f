"""What every agent costs on this machine: per step, per action and in the whole loop.

    python -m runners.bench.methods --algos sac,diffsr

Agents are measured with their default options at HalfCheetah's sizes, in one thread. An
update is what one environment step pays for: `observe` and `update`, averaged over whole
learning periods, since some agents learn once in many steps, or more at every second.
Milliseconds say little about another machine, so costs are also given in units u:
1 u is one float32 forward and backward pass of a 23-256-256-1 ReLU network at batch 256
in plain torch. u and agent are timed in turns and compared pair by pair, so that a
neighbour's load on the machine hits both.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import algos
import envs
from algos.base.agent import Agent
from algos.base.offpolicy import OffPolicyAgent
from algos.parts.config import build_config
from algos.parts.precision import PRECISIONS, arithmetic
from algos.parts.types import Spaces
from runners.cells.errors import EXIT_OK, UserError, positive
from runners.cells.files import write_atomic
from runners.cells.grid import make_cells, split
from runners.cells.protocols import DIFFSR
from runners.cells.schema import PHASES
from runners.cells.settings import RunSettings
from runners.storage import manifest
from runners.storage.rundir import RunDirectory
from runners.terminal.cli import Parser, check_device, run_main
from runners.training.estimate import random_transition
from runners.training.loop import Loop
from runners.training.process import setup_process

OBS_DIM, ACTION_DIM, BATCH = 17, 6, 256
STATES = Spaces((OBS_DIM,), ACTION_DIM)
STORED = 5_000  # transitions in memory before updates are timed
LEARNINGS = 4  # updates that learn, at first, to find the period after which work repeats
MOST_LEARNINGS = 64
SAME_WORK = 0.05  # of the larger; PolyGRAD's line search tries now more, now fewer steps
WARM_UP = 5  # calls before timing: allocations, compilation, graph capture
WARM_UP_SECONDS = 1.0  # of these calls, if they are slow
FEWEST, TURNS_SECONDS = 3, 20.0
BURST_SECONDS = 0.02  # short calls are timed together
LOOP_TASK = "mbbl/HalfCheetah"
LOOP_SECONDS = 6.0  # of updates in the loop that is timed
SB3_TASK, SB3_STEPS, SB3_WARM_UP = "gym/HalfCheetah-v5", 200, 200
SB3_ALGOS = ("sac", "td3")

Call = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """Cost of one agent at HalfCheetah's sizes; medians over repeats."""

    algo: str
    precision: str
    u_ms: float  # one u, timed in the same turns
    period: int  # environment steps after which its work repeats
    update_ms: float  # per environment step
    update_u: float
    act_ms: float  # one training action
    act_u: float
    update_gflop: float  # matrix products per environment step
    rate_fraction: float  # those per second at best, over the machine's rate in that precision


@dataclass(frozen=True)
class HotLoop:
    """Cost of an inner loop that an agent names in `hot_loops`; fields as in `Cost`."""

    algo: str
    loop: str
    precision: str
    ms: float
    u: float
    gflop: float
    rate_fraction: float


@dataclass(frozen=True)
class LoopSpeed:
    """A short real run through the runner; evaluation at the rate of protocol `diffsr`."""

    algo: str
    task: str
    steps: int  # that learned and were timed
    steps_per_second: float  # of all four phases
    phase_ms: dict[str, float]  # per step


@dataclass(frozen=True)
class AgainstSB3:
    """An algorithm here and in Stable-Baselines3, trained in turns, without evaluation."""

    algo: str
    task: str
    ours: float  # median steps per second
    theirs: float
    ratio: float
    version: str  # of Stable-Baselines3


# ---------------------------------------------------------------- timing


def timed(call: Call, count: int, device: torch.device) -> float:
    """Seconds per call over `count` calls, with all their work on the device done."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(calls: dict[str, Call], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per call of each of `calls`, `repeats` of them, one after the other in turns.

    Calls that take seconds get fewer: at least `FEWEST`, then until `TURNS_SECONDS` are over.
    """
    counts = {}
    for name, call in calls.items():
        once = timed(call, 1, device)
        timed(call, max(1, min(WARM_UP, int(WARM_UP_SECONDS / once))), device)
        counts[name] = max(1, round(BURST_SECONDS / timed(call, 1, device)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn >= FEWEST and time.perf_counter() - start > TURNS_SECONDS:
            break
        for name, call in calls.items():
            seconds[name].append(timed(call, counts[name], device))
    return seconds


def paired(seconds: list[float], units: list[float]) -> float:
    """Median cost in u, each sample over the u measured in the same turn."""
    return median(s / u for s, u in zip(seconds, units, strict=True))


def unit(device: torch.device) -> Call:
    """One u: forward and backward pass of the reference network."""
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    layers = [linear(OBS_DIM + ACTION_DIM, 256), relu(), linear(256, 256), relu(), linear(256, 1)]
    net = torch.nn.Sequential(*layers).to(device)
    x = torch.randn(BATCH, OBS_DIM + ACTION_DIM, device=device)

    def call() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        net(x).square().mean().backward()

    return call


def product_rate(dtype: torch.dtype, device: torch.device, sizes: Sequence[int]) -> float:
    """GFLOP/s of square matrix products of this type: the best of several sizes and tries."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        best = max(best, *(2e-9 * size**3 / timed(product, 1, device) for _ in range(6)))
    return best


def rates(device: torch.device) -> dict[str, float]:
    """Rate of every precision that an agent can have on this device, in GFLOP/s."""
    sizes = (512, 1024, 2048) if device.type == "cpu" else (4096, 8192)
    before = torch.backends.cuda.matmul.allow_tf32
    measured = {}
    for name, dtype in PRECISIONS.items():
        if arithmetic(name, device) != name:
            continue
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        measured[name] = product_rate(dtype, device, sizes)
    torch.backends.cuda.matmul.allow_tf32 = before
    return measured


# ---------------------------------------------------------------- update and action


class NoModules(ModuleTracker):
    """Attributes all work to the whole: nothing is hooked."""

    def __enter__(self) -> NoModules:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


class Products(FlopCounterMode):
    """Counts the work of matrix products, all in one sum.

    Torch's counter also finds out which module did them, by hooks on what a module reads; and
    `torch.autograd.grad` with respect to a leaf that is hooked is an error (QSM does that).
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = NoModules()


def ready_agent(
    algo: str, device: torch.device, stored: int = STORED, spaces: Spaces = STATES, preset: str = ""
) -> Agent:
    """An agent with default options, or a preset's, and a filled memory, past its random steps."""
    kind = algos.versions(algos.load(algo))["pixels" if spaces.pixels else "state"]
    warm = {"random_steps": 0} if hasattr(kind.Config, "random_steps") else {}
    options = {**(kind.presets[preset] if preset else {}), **warm}
    agent = kind(spaces, build_config(kind.Config, options), [0], device)
    rng = np.random.default_rng(0)
    for k in range(1, stored + 1):  # with ends: some agents learn from whole episodes only
        agent.observe(random_transition(agent.spaces, rng, terminated=k % 100 == 0))
    return agent


def learning_step(agent: Agent) -> Callable[[], bool]:
    """A call that stores a step and learns what it pays for; True if anything was learned."""
    transition = random_transition(agent.spaces, np.random.default_rng(1))

    def call() -> bool:
        agent.observe(transition)
        return bool(agent.update())

    return call


def shortest_period(work: Sequence[int]) -> int:
    """Entries after which `work` repeats to `SAME_WORK`, seen at least twice; 0 if it does not."""

    def repeats(period: int) -> bool:
        pairs = zip(work[period:], work, strict=False)
        return all(math.isclose(a, b, rel_tol=SAME_WORK) for a, b in pairs)

    return next((p for p in range(1, len(work) // 2 + 1) if repeats(p)), 0)


def learning_period(agent: Agent) -> tuple[int, float]:
    """Environment steps after which the agent's work repeats, and GFLOP of one step.

    The work of a step is that of its matrix products. It may be nothing but once in a
    rollout, or more at every second update. The agent is driven until a period is seen
    twice; work that follows none within `MOST_LEARNINGS` updates is averaged over them all.
    """
    step, work, learned, wanted = learning_step(agent), [0], 0, LEARNINGS
    period = 0
    if isinstance(agent, OffPolicyAgent):
        agent.capture = False  # what a graph replays cannot be counted
    with Products() as counter:
        while not period and wanted <= MOST_LEARNINGS:
            while learned < wanted:
                learned += step()
                work.append(counter.get_total_flops())
            flops = [after - before for before, after in itertools.pairwise(work)]
            period = shortest_period(flops)
            wanted *= 2
    if isinstance(agent, OffPolicyAgent):
        agent.capture = True
    period = period or len(flops)
    return period, sum(flops[-period:]) / period / 1e9


def measure(
    algo: str, repeats: int, device: torch.device, rate: dict[str, float], stored: int = STORED
) -> Cost:
    """Time learning and training actions of one agent, in turns with u."""
    agent = ready_agent(algo, device, stored)
    period, gflop = learning_period(agent)
    step = learning_step(agent)

    def whole_period() -> None:
        for _ in range(period):
            step()

    obs = np.random.default_rng(1).standard_normal((1, 1, OBS_DIM), np.float32)
    calls: dict[str, Call] = {
        "u": unit(device),
        "update": whole_period,
        "act": lambda: agent.act(obs, explore=True),
    }
    seconds = in_turns(calls, repeats, device)
    seconds["update"] = [sample / period for sample in seconds["update"]]
    ms = {f"{name}_ms": 1e3 * median(samples) for name, samples in seconds.items()}
    units = {f"{name}_u": paired(seconds[name], seconds["u"]) for name in ("update", "act")}
    precision = agent.arithmetic
    # Best against best: a neighbour's load would otherwise slow only one of the two.
    fraction = gflop / min(seconds["update"]) / rate[precision]
    work = {"update_gflop": gflop, "rate_fraction": fraction}
    return Cost(algo, precision, period=period, **ms, **units, **work)


def measure_hot_loops(
    algo: str, repeats: int, device: torch.device, rate: dict[str, float], stored: int = STORED
) -> list[HotLoop]:
    """Time every loop that the agent names, each in turns with u."""
    agent = ready_agent(algo, device, stored)
    precision, costs = agent.arithmetic, []
    for name, call in agent.hot_loops().items():
        with Products() as counter:
            call()
        gflop = counter.get_total_flops() / 1e9
        seconds = in_turns({"u": unit(device), "loop": call}, repeats, device)
        ms, u = 1e3 * median(seconds["loop"]), paired(seconds["loop"], seconds["u"])
        fraction = gflop / min(seconds["loop"]) / rate[precision]
        costs.append(HotLoop(algo, name, precision, ms, u, gflop, fraction))
    return costs


# ---------------------------------------------------------------- the whole loop


@contextmanager
def training_loop(algo: str, task: str, device: str, warm: int, episodes: int) -> Iterator[Loop]:
    """The runner's loop over a cell without end, in a folder that goes away.

    Args:
        algo: what `algos.load` takes.
        task: task id.
        device: cpu, cuda or cuda:N.
        warm: random steps, for agents that take any.
        episodes: of an evaluation.
    """
    endless: dict[str, Any] = {"steps": 10**9, "eval_every": 10**9, "eval_episodes": episodes}
    rules = replace(DIFFSR, name="bench", reduced=True, random_steps=warm, **endless)
    (cell,) = make_cells([algo], [task], [0], rules)
    with TemporaryDirectory() as folder:
        directory = RunDirectory(cell, Path(folder))
        directory.lock()
        loop = Loop((cell,), (directory,), RunSettings(device))
        loop.start()
        yield loop
        loop.close()


def loop_steps(update_ms: float, period: int = 1) -> int:
    """Steps of learning that take about `LOOP_SECONDS`, 20 to 1,000, then to whole periods."""
    steps = min(1_000, max(20, LOOP_SECONDS * 1e3 / update_ms))
    return math.ceil(int(steps) / period) * period


def measure_loop(
    algo: str, steps: int, device: str, task: str = LOOP_TASK, episodes: int = DIFFSR.eval_episodes
) -> LoopSpeed:
    """Time `steps` steps from the first that all learned in, and one evaluation.

    Before them come random steps, an episode to learn from, and what else an agent waits for.
    """
    with training_loop(algo, task, device, envs.task(task).max_episode_steps, episodes) as loop:
        while not loop.metrics:
            loop.train_step()
        before = dict(loop.seconds)
        for _ in range(steps):
            loop.train_step()
        loop.evaluate()
        total = {name: loop.seconds[name] - before[name] for name in PHASES}
    share = dict.fromkeys(PHASES, steps) | {"eval": DIFFSR.eval_every}
    phase_ms = {name: 1e3 * total[name] / share[name] for name in PHASES}
    return LoopSpeed(algo, task, steps, 1e3 / sum(phase_ms.values()), phase_ms)


def sb3_agent(algo: str, task: str, device: str) -> Any:
    """Stable-Baselines3's agent with the same sizes: one update of 256 per step, 256-256."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    env = envs.make(task, seed=0)
    options: dict[str, Any] = {"batch_size": BATCH, "policy_kwargs": {"net_arch": [256, 256]}}
    options |= {"train_freq": 1, "gradient_steps": 1, "learning_starts": SB3_WARM_UP // 2}
    if algo == "td3":
        still = np.zeros(envs.task(task).action_dim)
        options["action_noise"] = NormalActionNoise(still, still + 0.1)
    return getattr(sb3, algo.upper())("MlpPolicy", env, device=device, seed=0, **options)


def against_sb3(
    algo: str, repeats: int, device: str, task: str = SB3_TASK, steps: int = SB3_STEPS
) -> AgainstSB3:
    """Train both agents in turns on the same task.

    After the random steps of both, `steps` of each are timed `repeats` times.
    """
    theirs = sb3_agent(algo, task, device)
    with training_loop(algo, task, device, SB3_WARM_UP // 2, 1) as ours:

        def run_ours(count: int = steps) -> None:
            for _ in range(count):
                ours.train_step()

        def run_theirs(count: int = steps) -> None:
            theirs.learn(count, reset_num_timesteps=False)

        calls = (run_ours, run_theirs)
        for call in calls:
            call(SB3_WARM_UP)
        place = torch.device(device)
        turns = [[timed(call, 1, place) for call in calls] for _ in range(repeats)]
    theirs.get_env().close()
    mine, other = (steps / median(column) for column in zip(*turns, strict=True))
    version = importlib.metadata.version("stable-baselines3")
    return AgainstSB3(algo, task, mine, other, mine / other, version)


# ---------------------------------------------------------------- report


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """Columns of text under the words of `head`, the first to the left, others to the right."""
    lines = [head.split("|"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in lines
    )


def cost_table(costs: Sequence[Cost]) -> str:
    """Cost of updates and actions, one agent a row."""
    form = "{algo}|{precision}|{period}|{update_ms:.2f}|{update_u:.1f}|{act_ms:.3f}|{act_u:.2f}"
    form += "|{update_gflop:.3f}|{rate_fraction:.0%}"
    head = "agent|precision|period|ms/update|u/update|ms/act|u/act|GFLOP|of rate"
    return table(head, (form.format(**asdict(cost)).split("|") for cost in costs))


def hot_loop_table(loops: Sequence[HotLoop]) -> str:
    """Cost of inner loops, one a row."""
    form = "{algo}|{loop}|{precision}|{ms:.2f}|{u:.1f}|{gflop:.3f}|{rate_fraction:.0%}"
    head = "agent|loop|precision|ms|u|GFLOP|of rate"
    return table(head, (form.format(**asdict(loop)).split("|") for loop in loops))


def loop_table(loops: Sequence[LoopSpeed]) -> str:
    """Speed of the loop and where its time goes, one agent a row."""
    form = "{algo}|{steps}|{steps_per_second:.1f}|{env:.3f}|{act:.3f}|{update:.3f}|{eval:.3f}"
    rows = (form.format(**asdict(loop), **loop.phase_ms).split("|") for loop in loops)
    return table("agent|steps|steps/s|env ms|act ms|update ms|eval ms", rows)


def describe(sb3: AgainstSB3) -> str:
    """A comparison with Stable-Baselines3 in one line."""
    return (
        f"{sb3.algo} on {sb3.task}, training alone: {sb3.ours:.0f} steps/s here, "
        f"{sb3.theirs:.0f} in Stable-Baselines3 {sb3.version}, ratio {sb3.ratio:.2f}"
    )


def chosen(text: str, kind: str) -> list[str]:
    """The algorithms of a comma list, or all, that take this kind of observation.

    Raises:
        UserError: the list is empty, or names one that does not.
    """
    fitting = [name for name in algos.list_algos() if kind in algos.versions(algos.load(name))]
    names = fitting if text == "all" else split(text)
    if not names:
        raise UserError(f"--algos: name some of {', '.join(fitting)}, or all")
    for name in names:
        if kind not in algos.versions(algos.load(name)):
            raise UserError(f"--algos {name}: it takes no {kind} observations, which this measures")
    return names


def _arguments(arguments: list[str] | None) -> Any:
    parser = Parser("runners.bench.methods", __doc__ or "")
    parser.add_argument("--algos", default="all", metavar="NAMES", help="comma list, or all")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="samples of each time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)
    options.algos = chosen(options.algos, "state")
    positive("repeats", options.repeats)
    check_device(options.device)
    if options.json and not options.json.resolve().parent.is_dir():
        raise UserError(f"--json {options.json}: its folder does not exist")
    return options


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Name and measured rates of what the agents run on."""
    name = manifest.machine()["cpu"] if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {"name": name, "torch": torch.__version__, "threads": 1, "gflops": rates(device)}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print each table when it is ready, and write the numbers if asked to."""
    options = _arguments(arguments)
    setup_process()
    device = torch.device(options.device)
    machine = machine_facts(device)
    rate = machine["gflops"]
    print(f"{machine['name']}, torch {torch.__version__}, one thread; matrix products, GFLOP/s:")
    print(", ".join(f"{name} {value:.0f}" for name, value in rate.items()))

    costs = []
    for name in options.algos:  # a table comes when it is whole; PolyGRAD alone takes minutes
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        costs.append(measure(name, options.repeats, device, rate))
    u_ms = median(cost.u_ms for cost in costs)
    turns = f"medians of up to {options.repeats}"
    print(f"\nOne update, one training action: {turns}; 1 u = {u_ms:.3f} ms")
    print(cost_table(costs))
    print("update: what one environment step pays for, observe() included, over whole periods")
    print("period: environment steps after which an agent's work repeats")
    print("GFLOP: matrix products of an update; of rate: GFLOP / best time / rate of the precision")

    parts = (measure_hot_loops(name, options.repeats, device, rate) for name in options.algos)
    hot_loops = [loop for part in parts for loop in part]
    if hot_loops:
        print(f"\nInner loops, each on its own\n{hot_loop_table(hot_loops)}")

    loops = [measure_loop(c.algo, loop_steps(c.update_ms, c.period), options.device) for c in costs]
    rules = f"{DIFFSR.eval_episodes} evaluation episodes every {DIFFSR.eval_every} steps"
    print(f"\nTraining on {LOOP_TASK}, time per step with {rules}\n{loop_table(loops)}\n")

    sb3: list[AgainstSB3] = []
    if importlib.util.find_spec("stable_baselines3") is None:
        print("against Stable-Baselines3: not installed (extra `bench`)")
    else:
        sb3 = [against_sb3(a, max(5, options.repeats // 2), options.device) for a in SB3_ALGOS]
        print(*map(describe, sb3), sep="\n")
    if options.json:
        rows: dict[str, Sequence[Any]] = {
            "costs": costs,
            "hot_loops": hot_loops,
            "loops": loops,
            "sb3": sb3,
        }
        result = {"machine": machine} | {k: [asdict(row) for row in v] for k, v in rows.items()}
        write_atomic(options.json, json.dumps(result, indent=1) + "\n")
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)

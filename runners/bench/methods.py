"""What learning and acting cost, for every agent, with default options at HalfCheetah's sizes.

An update is what one environment step pays for: `observe` and `update`, averaged over whole
learning periods, since some agents learn once in many steps, or more at every second. Milliseconds
say little about another machine, so costs are also given in units u, see `runners.bench.timing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
import torch

from runners.bench.record import table
from runners.bench.timing import OBS_DIM, Call, in_turns, paired, unit
from runners.bench.work import STORED, Products, learning_period, learning_step, ready_agent


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


def hot_loop_table(loops: Sequence[HotLoop]) -> str:
    """Cost of inner loops, one a row."""
    form = "{algo}|{loop}|{precision}|{ms:.2f}|{u:.1f}|{gflop:.3f}|{rate_fraction:.0%}"
    head = "agent|loop|precision|ms|u|GFLOP|of rate"
    return table(head, (form.format(**asdict(loop)).split("|") for loop in loops))


COST_HEAD = "agent|precision|period|ms/update|u/update|ms/act|u/act|GFLOP|of rate"


def cost_row(cost: Cost) -> list[str]:
    """Return one agent's cost of updates and actions under `COST_HEAD`."""
    form = "{algo}|{precision}|{period}|{update_ms:.2f}|{update_u:.1f}|{act_ms:.3f}|{act_u:.2f}"
    form += "|{update_gflop:.3f}|{rate_fraction:.0%}"
    return form.format(**asdict(cost)).split("|")

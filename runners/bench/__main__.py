"""Measure what every agent costs on this machine: per step, per action and in the whole loop.

    python -m runners.bench --algos sac,diffsr

Everything runs in one thread. Updates and actions are timed in turns with a small network of plain
torch, one u, and compared pair by pair, so that a neighbour's load on the machine hits both.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from statistics import median

import torch

from runners.bench.loop import LOOP_TASK, LoopSpeed, loop_steps, loop_table, measure_loop
from runners.bench.methods import (
    COST_HEAD,
    Cost,
    HotLoop,
    cost_row,
    hot_loop_table,
    measure,
    measure_hot_loops,
)
from runners.bench.peers import SB3_ALGOS, AgainstSB3, against_sb3, describe
from runners.bench.record import (
    RowPrinter,
    Tables,
    add_arguments,
    check_arguments,
    machine_facts,
    write_record,
)
from runners.cells.errors import EXIT_OK
from runners.cells.protocols import DIFFSR
from runners.terminal.cli import Parser, run_main
from runners.training.process import setup_process


def parser() -> Parser:
    """Build the parser of the command."""
    result = Parser("runners.bench", str(__doc__))
    add_arguments(result, repeats=15)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print each row when it is ready, and write the numbers if asked to."""
    options = parser().parse_args(argv)
    check_arguments(options, "state")
    setup_process()
    device = torch.device(options.device)
    machine = machine_facts(device)
    rate = machine["gflops"]
    print(f"{machine['name']}, torch {torch.__version__}, one thread; matrix products, GFLOP/s:")
    print(", ".join(f"{name} {value:.0f}" for name, value in rate.items()))
    costs = measure_costs(options.algos, options.repeats, device, rate)
    hot_loops = measure_inner_loops(options.algos, options.repeats, device, rate)
    loops = measure_training(costs, options.device)
    sb3 = measure_peers(options.repeats, options.device)
    tables: Tables = {
        "costs": costs,
        "hot_loops": hot_loops,
        "loops": loops,
        "sb3": sb3,
    }
    write_record(options.json, machine, tables)
    return EXIT_OK


def measure_costs(
    names: Sequence[str], repeats: int, device: torch.device, rate: dict[str, float]
) -> list[Cost]:
    """Time updates and actions of each agent; PolyGRAD alone takes minutes."""
    print(f"\nOne update, one training action: medians of up to {repeats}")
    rows, costs = RowPrinter(COST_HEAD), []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        costs.append(measure(name, repeats, device, rate))
        rows.print(cost_row(costs[-1]))
    print(f"1 u = {median(cost.u_ms for cost in costs):.3f} ms")
    print("update: what one environment step pays for, observe() included, over whole periods")
    print("period: environment steps after which an agent's work repeats")
    print("GFLOP: matrix products of an update; of rate: GFLOP / best time / rate of the precision")
    return costs


def measure_inner_loops(
    names: Sequence[str], repeats: int, device: torch.device, rate: dict[str, float]
) -> list[HotLoop]:
    """Time the inner loops that agents name, each on its own."""
    found = [loop for name in names for loop in measure_hot_loops(name, repeats, device, rate)]
    if found:
        print(f"\nInner loops, each on its own\n{hot_loop_table(found)}")
    return found


def measure_training(costs: Sequence[Cost], device: str) -> list[LoopSpeed]:
    """Time the runner's loop of each agent."""
    loops = [measure_loop(c.algo, loop_steps(c.update_ms, c.period), device) for c in costs]
    rate = f"{DIFFSR.eval_episodes} evaluation episodes every {DIFFSR.eval_every} steps"
    print(f"\nTraining on {LOOP_TASK}, time per step with {rate}\n{loop_table(loops)}\n")
    return loops


def measure_peers(repeats: int, device: str) -> list[AgainstSB3]:
    """Train the methods that Stable-Baselines3 has in turns with it, if it is installed."""
    if importlib.util.find_spec("stable_baselines3") is None:
        print("against Stable-Baselines3: not installed (extra `bench`)")
        return []
    compared = [against_sb3(algo, max(5, repeats // 2), device) for algo in SB3_ALGOS]
    print(*map(describe, compared), sep="\n")
    return compared


if __name__ == "__main__":
    run_main(main)

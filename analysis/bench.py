"""How the analysis scales: `python -m analysis.bench --runs 100,1000,10000`.

Each size is an experiment of made-up runs with 1,000 evaluation rows each, written to a temporary
folder and measured in a process of its own: reading it for the first time, making all tables of its
report, and reading it again from the cache, when nothing and when one run has changed. The
bootstrap is timed in turns with rliable's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rliable import library, metrics

from analysis import efficiency, report
from analysis.data.experiment import Experiment
from analysis.data.load import load
from analysis.data.published import normalisation
from analysis.data.scores import normalised_scores
from analysis.statistics.intervals import bootstrap
from runners.cells.schema import FORMAT

COMMAND = "python -m analysis.bench"

EVALUATIONS, EPISODES, EVERY = 100, 10, 10_000
"""Of each run: 1,000 rows."""

SHAPES = {100: (5, 4, 5), 1000: (10, 10, 10), 10_000: (20, 20, 25)}
"""Tasks, methods and seeds of each size."""

BOOTSTRAPS = ((4, 10), (5, 5), (10, 10))
"""Runs and tasks of Diff-SR's table, of QVPO's and of a larger study."""

PROTOCOL: dict[str, Any] = {
    "name": "bench",
    "reduced": True,
    "steps": EVALUATIONS * EVERY,
    "eval_every": EVERY,
    "eval_episodes": EPISODES,
    "reported": "last4,last,best",
    "note": "Made-up runs.",
}


def write_experiment(folder: Path, tasks: int, methods: int, seeds: int) -> None:
    """Write an experiment of made-up runs, in the runners' format; equal sizes give equal bytes.

    A quarter of the tasks, at least one, reports success.

    Args:
        folder: a folder that does not exist.
        tasks: number of tasks.
        methods: number of methods, which differ in how fast they learn.
        seeds: number of seeds of each method on each task.
    """
    known = normalisation()["measure"]
    judged = -(-tasks // 4)
    names = [
        *known.index[known == "return"][: tasks - judged],
        *known.index[known == "success"][:judged],
    ]
    folder.mkdir(parents=True)
    experiment = {"format": FORMAT, "name": folder.name, "protocol": PROTOCOL}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    for task, method, seed in product(names, range(methods), range(seeds)):
        cell = folder / task / f"method{method}" / f"seed-{seed}"
        cell.mkdir(parents=True)
        generator = np.random.default_rng([names.index(task), method, seed])
        _write_run(cell, (method + 1) / methods, known[task] == "success", generator)


def _write_run(cell: Path, skill: float, judged: bool, generator: np.random.Generator) -> None:
    """Write the files of one run; `skill` in (0, 1] is the success rate that it approaches."""
    manifest = {
        "status": "done",
        "title": cell.parent.name.capitalize(),
        "steps": PROTOCOL["steps"],
        "config": {f"option_{i}": i for i in range(40)},
        "code": {"version": "0", "commit": None, "dirty": False},
        "machine": {"cpu": "none", "cores": 2},
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "wall_seconds": 3600.0,
    }
    (cell / "run.json").write_text(json.dumps(manifest, indent=1))
    steps = np.arange(1, EVALUATIONS + 1) * EVERY
    learnt = skill * (1 - np.exp(-5 * steps / steps[-1]))
    returns = generator.normal(1000 * learnt[:, None], 100, size=(EVALUATIONS, EPISODES))
    final = generator.random(returns.shape) < learnt[:, None]
    lines = ["env_step,episode,return,length,success" + ",final_success" * judged]
    for i, j in np.ndindex(*returns.shape):
        success = f"1,{int(final[i, j])}" if judged else ""
        lines.append(f"{steps[i]},{j},{float(returns[i, j])!r},1000,{success}")
    (cell / "evaluations.csv").write_text("\n".join(lines) + "\n")
    seconds = np.outer(steps / 1000, [0.5, 0.25, 2.0, 0.25]).round(3)
    lines = ["env_step,env,act,update,eval"]
    lines += [
        f"{step},{','.join(map(str, row))}"
        for step, row in zip(steps, seconds.tolist(), strict=True)
    ]
    (cell / "timing.csv").write_text("\n".join(lines) + "\n")


def make_tables(experiment: Experiment) -> int:
    """Make every table that there is of an experiment; return their number."""
    documents = report.all_tables(experiment, normalised_scores(experiment))
    documents["efficiency"] = efficiency.tables(experiment)
    return sum(bool(table.markdown()) for tables in documents.values() for table in tables)


def measure(folder: Path) -> dict[str, float]:
    """Measure one experiment in this process, which must have loaded nothing else before.

    Returns:
        Seconds for each step, the processor's seconds for the first two, which do not count the
        neighbours on the machine, and the most memory of the process in GB (10^9 bytes).
    """
    figures = {}
    start, processor = time.perf_counter(), time.process_time()
    experiment = load(folder)
    figures["first"] = time.perf_counter() - start
    start = time.perf_counter()
    make_tables(experiment)
    figures["tables"] = time.perf_counter() - start
    figures["processor"] = time.process_time() - processor
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    del experiment
    start = time.perf_counter()
    load(folder)
    figures["again"] = time.perf_counter() - start
    changed = next(folder.glob("*/*/*/seed-0/evaluations.csv"))
    changed.write_text(changed.read_text().rsplit("\n", 2)[0] + "\n")
    start = time.perf_counter()
    load(folder)
    figures["changed"] = time.perf_counter() - start
    return figures


def compare_bootstraps(
    runs: int, tasks: int, reps: int = 2000, turns: int = 5
) -> tuple[float, float]:
    """Time the intervals of all four aggregates, ours and rliable's in turns.

    Args:
        runs: runs of each task.
        tasks: number of tasks.
        reps: resamples of rliable, whose cost is proportional to them; ours makes 50,000.
        turns: how often each is timed.

    Returns:
        Microseconds per resample of rliable and of ours, medians over the turns.
    """
    scores = np.random.default_rng(0).normal(0.5, 0.3, size=(runs, tasks))
    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_median,
        metrics.aggregate_mean,
        metrics.aggregate_optimality_gap,
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        start = time.perf_counter()
        library.get_interval_estimates(
            {"method": scores},
            lambda values: np.array([function(values) for function in functions]),
            reps=reps,
        )
        middle = time.perf_counter()
        bootstrap(list(scores.T), reps=50_000)
        seconds[0].append((middle - start) / reps)
        seconds[1].append((time.perf_counter() - middle) / 50_000)
    return 1e6 * median(seconds[0]), 1e6 * median(seconds[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Measure loading, tables, cache and bootstrap on made-up runs."
    )
    parser.add_argument(
        "--runs",
        type=_sizes,
        default=list(SHAPES),
        metavar="N,N",
        help=f"sizes, of {', '.join(map(str, SHAPES))} (default: all; the largest takes 0.5 GB)",
    )
    parser.add_argument(
        "--folder", type=Path, help="write here, and keep the runs (default: a temporary folder)"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    print(
        "| runs | rows | first load, s | all tables, s | processor, s | ms/run | memory, GB "
        "| again, s | one changed, s |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    with TemporaryDirectory() as temporary:
        for size in options.runs:
            print(_line(size, (options.folder or Path(temporary)) / f"runs-{size}"), flush=True)
    print(
        "\n| runs × tasks | rliable, µs/resample | here, µs/resample | ratio |\n"
        "|---:|---:|---:|---:|"
    )
    for runs, tasks in BOOTSTRAPS:
        theirs, ours = compare_bootstraps(runs, tasks)
        print(f"| {runs} × {tasks} | {theirs:.1f} | {ours:.2f} | {theirs / ours:.0f} |", flush=True)
    return 0


def _line(size: int, folder: Path) -> str:
    """Make and measure an experiment; return its line of the table."""
    write_experiment(folder, *SHAPES[size])
    command = [sys.executable, "-m", "analysis.bench", "--measure", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    each = 1000 * found["processor"] / size
    rows = size * EVALUATIONS * EPISODES
    return (
        f"| {size:,} | {rows:,} | {found['first']:.1f} | {found['tables']:.1f} "
        f"| {found['processor']:.1f} | {each:.1f} "
        f"| {found['memory']:.2f} | {found['again']:.1f} | {found['changed']:.1f} |"
    )


def _sizes(text: str) -> list[int]:
    sizes = [int(part) if part.isdecimal() else part for part in text.split(",")]
    for size in sizes:
        if size not in SHAPES:
            valid = ", ".join(map(str, SHAPES))
            raise argparse.ArgumentTypeError(f"no size '{size}'; expected some of {valid}")
    return [int(size) for size in sizes]


if __name__ == "__main__":
    sys.exit(main())

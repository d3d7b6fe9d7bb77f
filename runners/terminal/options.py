"""Arguments that commands share, what they make of them, and what they refuse."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import algos
from algos.parts.config import describe_options
from runners.cells.errors import UserError
from runners.cells.grid import parse_seeds, split
from runners.cells.protocols import PROTOCOLS, Protocol
from runners.cells.settings import RunSettings
from runners.storage.rundir import experiment_folder
from runners.terminal.cli import Parser

# ---------------------------------------------------------------- what is run


def both_forms(name: str) -> tuple[str, str]:
    """Return the flags of an option that is singular here and plural there, its own form first.

    `both_forms("algos")` is `("--algos", "--algo")`; argparse names the value after the first.
    """
    other = name.removesuffix("s") if name.endswith("s") else f"{name}s"
    return f"--{name}", f"--{other}"


def only_one(name: str, text: str) -> str:
    """Return the value of option `--name` for a command that takes no list.

    Raises:
        UserError: it is a list.
    """
    if "," in text:
        raise UserError(f"--{name} {text}: takes one; runners.sweep takes several")
    return text


def add_seeds(group: argparse._ArgumentGroup, default: str) -> None:
    """Add `--seeds` and `--seed`, which mean the same in every command; see `seeds_of`."""
    seeds = group.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seeds", metavar="SEEDS", help=f"a count like 4, or a list like 0,3,7; default: {default}"
    )
    seeds.add_argument("--seed", metavar="SEED", help="index of one seed")


def seeds_of(arguments: argparse.Namespace, default: int) -> list[int]:
    """Return seed indices: `--seeds 4` is 0 to 3, `--seeds 0,3` those two, `--seed 4` is 4.

    Args:
        arguments: those of `add_seeds`.
        default: number of seeds if none are named.

    Raises:
        UserError: one line.
    """
    if arguments.seed is None:
        return parse_seeds(str(default) if arguments.seeds is None else arguments.seeds)
    numbers = split(arguments.seed)
    if not numbers or not all(map(str.isdecimal, numbers)):
        raise UserError(f"--seed {arguments.seed}: expected one number, 0 or more")
    return list(dict.fromkeys(map(int, numbers)))


def add_protocol(group: argparse._ArgumentGroup) -> None:
    """Add the arguments that decide how long cells are and which experiment holds them."""
    group.add_argument("--protocol", default="quick", help=f"one of {', '.join(PROTOCOLS)}")
    group.add_argument("--steps", type=int, help="environment steps instead of the protocol's")
    group.add_argument(
        "--experiment", help="NAME (a folder of results/) or a PATH; default: the protocol's name"
    )


class _HelpAlgo(argparse.Action):
    """Print the options of an algorithm, and leave."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        print(options_text(str(values)))
        parser.exit()


def add_help_algo(parser: Parser) -> None:
    """Add `--help-algo`."""
    parser.add_argument(
        "--help-algo",
        action=_HelpAlgo,
        metavar="ALGO",
        help="list the options of an algorithm with their sources, and exit",
    )


def options_text(source: str) -> str:
    """Return all options of an algorithm, for each kind of observation that it takes.

    Args:
        source: a name or the path of a `.py` file.
    """
    algo, parts = algos.name_of(source), []
    for agent in dict.fromkeys(algos.versions(algos.load(source)).values()):
        kinds, presets = " and ".join(agent.observation_kinds), ", ".join(agent.presets)
        lines = [f"options of {algo} ({agent.title}, {kinds}), presets: {presets}"]
        lines += [f"  {name}={value}: {doc}" for name, value, doc in describe_options(agent.Config)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def add_run(parser: Parser) -> None:
    """Add the arguments of commands that look at one run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, .../seed-<k>")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")


# ---------------------------------------------------------------- how it is run


def add_settings(group: argparse._ArgumentGroup) -> None:
    """Add the arguments that `settings_of` reads."""
    group.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    group.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wall time between checkpoints",
    )
    group.add_argument(
        "--frames",
        default="disk",
        choices=("disk", "memory"),
        help="where frames are read from once a checkpoint holds them; memory takes their size",
    )
    group.add_argument(
        "--track",
        default="",
        metavar="SINKS",
        help="send metrics there as well: comma list of tensorboard, wandb, trackio",
    )


def settings_of(
    arguments: argparse.Namespace,
    device: str,
    track: tuple[str, ...] = (),
    step_timeout: float = math.inf,
) -> RunSettings:
    """Return how the runs of a command line are done.

    Args:
        arguments: those of `add_settings`.
        device: the one asked for, checked.
        track: the sinks asked for, checked.
        step_timeout: seconds without a step after which a worker counts as stalled.

    Raises:
        UserError: a value is impossible.
    """
    seconds, on_disk = arguments.checkpoint_seconds, arguments.frames == "disk"
    if not seconds >= 0:  # NaN as well
        raise UserError(f"--checkpoint-seconds {seconds:g}: must be 0 or more")
    if not step_timeout > 0:
        raise UserError(f"--step-timeout {step_timeout:g}: must be above 0")
    return RunSettings(device, seconds, on_disk, step_timeout, track)


def experiment_path(arguments: argparse.Namespace, protocol: Protocol) -> Path:
    """Where the experiment of a command line lives; see `add_protocol`."""
    text = arguments.experiment
    if text is None:
        text = protocol.name if arguments.steps is None else f"{protocol.name}-{protocol.steps}"
    if not text.strip():
        raise UserError("--experiment '': expected a name or a path")
    return experiment_folder(text)

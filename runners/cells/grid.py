"""From what a user asks for to cells: options resolved, everything checked."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import algos
import envs
from algos.parts.config import AgentConfig, OptionError, build_config, inert_options
from runners.cells.cell import Cell
from runners.cells.errors import UserError, nearest
from runners.cells.protocols import Protocol

if TYPE_CHECKING:  # it brings torch, which is loaded when the first agent is
    from algos.base.agent import Agent

Overrides = dict[str, dict[str, str]]
MOST_LABEL_BYTES = 250


def parse_overrides(texts: Sequence[str], algorithms: Sequence[str]) -> Overrides:
    """Turn `diffsr.feature_updates=10` into `{"diffsr": {"feature_updates": "10"}}`.

    Raises:
        UserError: one line for a text of another form or an algorithm not in the sweep.
    """
    result: Overrides = {}
    for text in texts:
        target, equals, value = text.partition("=")
        algo, dot, name = target.partition(".")
        if not (equals and dot and algo and name and value):
            raise UserError(f"--set {text}: expected ALGO.OPTION=VALUE")
        if algo not in algorithms:
            listed = ", ".join(algorithms)
            raise UserError(f"--set {text}: {algo!r} is not among --algos {listed}")
        result.setdefault(algo, {})[name] = value
    return result


def resolve(
    kind: type[Agent], task: str, protocol: Protocol, preset: str, overrides: Mapping[str, Any]
) -> AgentConfig:
    """Every option of an agent in one cell.

    Later ones win: defaults, the method's published options of the task, what the
    protocol sets for all agents that collect random steps, the preset, the user's own.
    """
    plain, repeat = task.partition("@")[0], envs.task(task).action_repeat
    values: dict[str, Any] = dict(kind.task_overrides.get(plain, {}))
    if hasattr(kind.Config, "random_steps"):
        # Agents count their own steps, protocols those of the simulator.
        values["random_steps"] = protocol.random_steps // repeat
    values |= kind.presets.get(protocol.preset, {})
    if preset:
        if preset not in kind.presets:
            valid, hint = ", ".join(kind.presets) or "none", nearest(preset, kind.presets)
            raise OptionError(f"unknown preset {preset!r}: valid presets are {valid}{hint}")
        values |= kind.presets[preset]
    return build_config(kind.Config, values | dict(overrides))


def make_cells(
    entries: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    protocol: Protocol,
    sets: Sequence[str] = (),
) -> list[Cell]:
    """All cells of a sweep, seeds outermost so that early results cover every method.

    Args:
        entries: `algo` or `algo@preset`; `algo` is a name or the path of a `.py` file.
        tasks: task ids.
        seeds: seed indices.
        protocol: steps and evaluation, the same for all.
        sets: texts `algo.option=value`.
    """
    pairs = [parse_entry(entry) for entry in entries]
    sources: dict[str, str] = {}
    for source, _ in pairs:
        algos.load(source)
        name = algos.name_of(source)
        if algos.load(sources.setdefault(name, source)) is not algos.load(source):
            raise UserError(f"--algos {source}: {sources[name]} has the name {name} too")
    overrides = parse_overrides(sets, list(sources))
    tasks = list(dict.fromkeys(envs.task(task).id for task in tasks))
    methods = []
    for algo, preset in dict.fromkeys((algos.name_of(source), preset) for source, preset in pairs):
        agent = algos.load(sources[algo])
        own = overrides.get(algo, {})
        variant = ",".join([*([preset] if preset else []), *(f"{k}={v}" for k, v in own.items())])
        if "/" in variant:
            raise UserError(f"--set {algo}: values cannot hold '/'")
        label = f"{algo}@{variant}" if variant else algo
        if len(os.fsencode(label)) > MOST_LABEL_BYTES:
            raise UserError(f"--set {algo}: {len(own)} values make too long a name for a folder")
        for task in tasks:
            kind = agent_for(agent, task) or agent
            config = _resolve(kind, algo, task, protocol, preset, own)
            methods.append((task, algo, label, config))
    return [
        Cell(
            *(task, algo, label, dataclasses.asdict(config), seed, protocol),
            file=_file(sources[algo]),
            inert=inert_options(config),
            retired=config.retired,
        )
        for seed in seeds
        for task, algo, label, config in methods
    ]


def parse_entry(entry: str) -> tuple[str, str]:
    """Split `sac@released` or `../mine.py@quick` into what `algos.load` takes and the preset."""
    match = re.fullmatch(r"(.+\.py|[^@]*)(?:@(.*))?", entry, re.DOTALL)
    assert match is not None
    return match[1], match[2] or ""


def unsupported(cell: Cell) -> str | None:
    """Why the cell's agent cannot be asked for its task, None if it can."""
    agent, gives = algos.load(cell.source), envs.task(cell.task).observation_kind
    if agent_for(agent, cell.task) is not None:
        return None
    takes = " or ".join(algos.versions(agent))
    return f"{cell.algo} takes {takes} observations, {cell.task} gives {gives}"


def agent_for(agent: type[Agent], task: str) -> type[Agent] | None:
    """Return the agent as it takes the task's observations, None if it does not."""
    return algos.versions(agent).get(envs.task(task).observation_kind)


def _file(source: str) -> str | None:
    """Return the absolute path of an algorithm that is not one of the project's."""
    if source.endswith(".py") and algos.name_of(source) not in algos.list_algos():
        return str(Path(source).resolve())
    return None


def _resolve(
    kind: type[Agent], algo: str, task: str, protocol: Protocol, preset: str, own: Mapping[str, str]
) -> AgentConfig:
    try:
        return resolve(kind, task, protocol, preset, own)
    except OptionError as error:
        raise OptionError(f"{algo}: {error}") from None


def parse_seeds(text: str) -> list[int]:
    """`4` is seeds 0 to 3; `0,3,7` is exactly those.

    Raises:
        UserError: one line.
    """
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part]
        else:
            seeds = list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds {text}: expected a count like 4 or a list like 0,3,7")
    return list(dict.fromkeys(seeds))


def split(text: str) -> list[str]:
    """Split a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]

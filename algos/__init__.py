"""Find the algorithms: one file each, nothing registered.

A file `algos/<name>.py` that defines exactly one concrete subclass of `Agent` is the
algorithm `<name>`. Nothing has to be registered anywhere. A file of the same form that
lies elsewhere works by its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from algos.parts.config import nearest

if TYPE_CHECKING:  # it brings torch, which is loaded when the first agent is
    from algos.base.agent import Agent

FOLDER = Path(__file__).resolve().parent


class UnknownAlgo(ValueError):
    """No such algorithm; the message is one line."""


def _agent_of(module: ModuleType) -> type[Agent] | None:
    """Return the agent that a module defines, None if it defines none."""
    from algos.base.agent import Agent

    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and issubclass(member, Agent)
        and not inspect.isabstract(member)
    ]
    if len(found) > 1:
        names = ", ".join(member.__name__ for member in found)
        raise TypeError(f"defines {len(found)} agents ({names}), not one")
    return found[0] if found else None


@cache
def _discover() -> tuple[dict[str, type[Agent]], dict[str, str]]:
    """Agents by name, and why the files that cannot be imported cannot."""
    found: dict[str, type[Agent]] = {}
    broken: dict[str, str] = {}
    for info in pkgutil.iter_modules([str(FOLDER)]):
        if info.name.startswith("_"):
            continue
        try:
            agent = _agent_of(importlib.import_module(f"algos.{info.name}"))
        except Exception as error:  # a fault in one method's file must not stop the others
            broken[info.name] = _one_line(error)
            continue
        if agent is not None:
            found[info.name] = agent
    return found, broken


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def list_algos() -> list[str]:
    """Names of all algorithms of the project, sorted."""
    return sorted(_discover()[0])


def name_of(source: str) -> str:
    """Return the name of an algorithm in tables: `mine` for `../mine.py`, `sac` for `sac`."""
    return Path(source).stem if source.endswith(".py") else source


def load(source: str) -> type[Agent]:
    """Return the agent class of an algorithm.

    Args:
        source: a name of `list_algos`, or the path of a file like those in this folder
            (it ends in `.py`).

    Raises:
        UnknownAlgo: one line with the valid names, or with the fault of its file.
    """
    if source.endswith(".py"):
        return _load_file(source, Path(source).resolve())
    agents, broken = _discover()
    if source in broken:
        raise UnknownAlgo(
            f"algo {source!r}: algos/{source}.py cannot be imported: {broken[source]}"
        )
    if source not in agents:
        valid = ", ".join(sorted(agents))
        raise UnknownAlgo(
            f"unknown algo {source!r}: valid algos are {valid}, or the path of a .py file"
            f"{nearest(source, agents)}"
        )
    return agents[source]


@cache
def versions(agent: type[Agent]) -> dict[str, type[Agent]]:
    """Return the agent by kind of observation: itself, or its version for pixels."""
    found = dict.fromkeys(agent.observation_kinds, agent)
    package, _, name = agent.__module__.rpartition(".")
    if package == "algos" and (FOLDER / "pixels" / f"{name}.py").exists():
        version = _agent_of(importlib.import_module(f"algos.pixels.{name}"))
        assert version is not None
        found["pixels"] = version
    return found


@cache
def _load_file(source: str, path: Path) -> type[Agent]:
    """Return the agent of a file outside this folder (or of a private one inside it)."""
    name = path.stem
    if path == FOLDER / f"{name}.py" and not name.startswith("_"):
        return load(name)
    if not path.is_file():
        raise UnknownAlgo(f"algo {source!r}: no such file")
    if not name.isidentifier():
        raise UnknownAlgo(f"algo {source!r}: name the file like a Python module, such as mine.py")
    if path.parent != FOLDER and (FOLDER / path.name).exists():
        raise UnknownAlgo(f"algo {source!r}: algos/{path.name} has this name; choose another")
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `dataclass` looks annotations up there
    try:
        spec.loader.exec_module(module)
        agent = _agent_of(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UnknownAlgo(f"algo {source!r}: cannot be imported: {_one_line(error)}") from None
    if agent is None:
        raise UnknownAlgo(
            f"algo {source!r}: defines no concrete subclass of algos.base.agent.Agent"
        )
    return agent

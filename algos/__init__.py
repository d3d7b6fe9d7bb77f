"""Algorithms: one file each, found by discovery.

A file `algos/<name>.py` that defines exactly one concrete subclass of `Agent` is the
algorithm `<name>`. Nothing has to be registered anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path

from algos.agent import Agent
from algos.config import nearest


class UnknownAlgo(ValueError):
    """No such algorithm; the message is one line."""


@cache
def _discover() -> tuple[dict[str, type[Agent]], dict[str, str]]:
    """Agents by name, and why the files that cannot be imported cannot."""
    found: dict[str, type[Agent]] = {}
    broken: dict[str, str] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name.startswith("_"):
            continue
        try:
            module = importlib.import_module(f"algos.{info.name}")
        except Exception as error:  # a fault in one method's file must not stop the others
            broken[info.name] = f"{type(error).__name__}: {error}".replace("\n", " ")
            continue
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ != module.__name__ or inspect.isabstract(member):
                continue
            if issubclass(member, Agent):
                found[info.name] = member
    return found, broken


def list_algos() -> list[str]:
    """Names of all algorithms, sorted."""
    return sorted(_discover()[0])


def load(name: str) -> type[Agent]:
    """Return the agent class of an algorithm.

    Raises:
        UnknownAlgo: one line with the valid names, or with the fault of its file.
    """
    agents, broken = _discover()
    if name in broken:
        raise UnknownAlgo(f"algo {name!r}: algos/{name}.py cannot be imported: {broken[name]}")
    if name not in agents:
        valid = ", ".join(sorted(agents))
        raise UnknownAlgo(f"unknown algo {name!r}: valid algos are {valid}{nearest(name, agents)}")
    return agents[name]

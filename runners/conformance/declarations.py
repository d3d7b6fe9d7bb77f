"""What a method says of itself: its source, its options, its presets and its replicas."""

from __future__ import annotations

import dataclasses
import re
import sys

import envs
from algos.parts.config import AgentConfig, build_config
from runners.conformance.harness import KINDS, Probe, build
from runners.conformance.rule import RULES, Algo, Broken, require, rule

# An arXiv number, or a repository: by its address, or as owner/name with a commit.
SOURCE = re.compile(
    r"arxiv(\.org/\w+/)?\W*\d{4}\.\d{4,5}|git(hub|lab)\.com/|[\w.-]+/[\w.-]+`?,?\s+`?[0-9a-f]{7}",
    re.I,
)


@rule
def facts_are_true(algo: Algo) -> None:
    """Title, paper, source, kinds of observations, tasks and exceptions are there and exist."""
    for fact in ("title", "paper"):
        text = getattr(algo, fact, "")
        require(isinstance(text, str) and bool(text.strip()), f"`{fact}` is empty: declare it")
    module = sys.modules[algo.__module__]
    require(
        bool(SOURCE.search(module.__doc__ or "")),
        "the module's docstring cites no source: give an arXiv number or a repository",
    )
    kinds = algo.observation_kinds
    require(
        isinstance(kinds, tuple) and bool(kinds) and set(kinds) <= set(KINDS),
        f"observation_kinds is {kinds!r}: a tuple out of {', '.join(KINDS)}",
    )
    for name in algo.rule_exceptions:
        require(name in RULES, f"rule_exceptions names {name!r}, which is not a rule")
    for task in algo.task_overrides:
        try:
            envs.task(task)
        except envs.UnknownTask as error:
            raise Broken(f"task_overrides: {error}") from None


@rule
def options_are_described(algo: Algo) -> None:
    """Every option is declared in a subclass of `AgentConfig` with a sentence for `--help`."""
    good = isinstance(algo.Config, type) and issubclass(algo.Config, AgentConfig)
    require(good, "`Config` is no subclass of algos.parts.config.AgentConfig: derive it")
    for field in dataclasses.fields(algo.Config):
        require(
            bool(field.metadata.get("doc")),
            f"option {field.name!r} has no sentence: declare it with option(default, doc)",
        )


@rule
def presets_build(algo: Algo) -> None:
    """There is a preset `quick`, and every preset and task override builds an agent."""
    require("quick" in algo.presets, "there is no preset `quick`: add one of reduced cost")
    named = {f"preset {name!r}": values for name, values in algo.presets.items()}
    named |= {f"task_overrides[{task!r}]": v for task, v in algo.task_overrides.items()}
    for name, values in named.items():
        try:
            build_config(algo.Config, values)
            build(algo, (0,), **values)
        except Exception as error:
            raise Broken(f"{name} does not build: {type(error).__name__}: {error}") from None


@rule
def max_replicas_fit(algo: Algo) -> None:
    """As many replicas as `max_replicas` says build and learn, and three where it says any."""
    replicas = algo.max_replicas or 3
    require(replicas >= 1, f"max_replicas is {replicas}: a positive number, or None for any")
    Probe(algo, tuple(range(replicas))).train(1)

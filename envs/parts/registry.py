"""The task registry: one list that the runner, the tests, the CLI and the docs all read.

A suite is a module with a tuple `TASKS` of `Task`s. A `Task` holds facts only, so reading them
imports no simulator; the environment itself is named by its entry point and loaded when made.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.utils import seeding

_TASKS: dict[str, Task] = {}


class UnknownTask(ValueError):
    """A task or suite name that is not registered; its text is one line with the nearest match."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One environment with its protocol facts.

    Attributes:
        id: `suite/name`, for example `mbbl/HalfCheetah`.
        obs_shape: shape of one observation, without replica or episode axes.
        action_dim: number of action components.
        max_episode_steps: agent steps after which an episode is truncated.
        terminates: whether an episode can end before that, through `terminated`.
        source: where the definition comes from, as a citation.
        gymnasium_id: name under which `gymnasium.make` finds the same environment.
        entry_point: `module:callable` that builds it.
        kwargs: arguments that select this task at the entry point.
        options: names of further arguments that `make` passes on.
        observation_kind: what the agent sees.
        action_repeat: simulator control steps for each agent step.
        reports_success: whether `info["success"]` says at each step if the task is done.
        facts: what else a result depends on and its manifest records, for example the camera.
        wrapped_limit: true if the environment does not count its own steps, so that gymnasium's
            `TimeLimit` and `OrderEnforcing` are put around it.
        vary: makes the same task with other settings, given as keywords that are whole numbers or
            flags; a ValueError of it is one line. None if there are no settings.
    """

    id: str
    obs_shape: tuple[int, ...]
    action_dim: int
    max_episode_steps: int
    terminates: bool
    source: str
    gymnasium_id: str
    entry_point: str
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    options: tuple[str, ...] = ()
    observation_kind: Literal["state", "pixels"] = "state"
    action_repeat: int = 1
    reports_success: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)
    wrapped_limit: bool = False
    vary: Callable[..., Task] | None = field(default=None, compare=False, repr=False)

    @property
    def suite(self) -> str:
        """The part of the id before the slash."""
        return self.id.partition("/")[0]


def register(task: Task) -> None:
    """Add a task to this registry and to gymnasium's.

    Args:
        task: the task to add.

    Raises:
        ValueError: if its id is taken.
    """
    if task.id in _TASKS:
        raise ValueError(f"task {task.id!r} is already registered")
    _TASKS[task.id] = task
    gymnasium.register(
        id=task.gymnasium_id,
        entry_point=task.entry_point,
        kwargs=dict(task.kwargs),
        max_episode_steps=task.max_episode_steps if task.wrapped_limit else None,
        order_enforce=task.wrapped_limit,
    )


def list_tasks(suite: str | None = None) -> list[str]:
    """Ids of all registered tasks, in the order in which their suites list them.

    Args:
        suite: only the tasks of this suite, for example `mbbl`.

    Returns:
        Task ids.

    Raises:
        UnknownTask: if there is no such suite.
    """
    if suite is None:
        return list(_TASKS)
    found = [task.id for task in _TASKS.values() if task.suite == suite]
    if not found:
        raise UnknownTask(
            f"unknown suite {suite!r}{_nearest(suite, _suites())}; suites: {', '.join(_suites())}"
        )
    return found


def task(task_id: str) -> Task:
    """Return the facts of one task, without building its environment.

    Args:
        task_id: for example `mbbl/HalfCheetah`, or with settings `metaworld/hammer@size=64`;
            several are joined by `+`, and a flag is its name alone.

    Returns:
        The registered task. With settings its `id` has them in one spelling: in the suite's
        order and without those that change nothing.

    Raises:
        UnknownTask: if the id is not registered, or a setting is not one of the task's.
    """
    name, at, settings = task_id.partition("@")
    if name not in _TASKS:
        raise UnknownTask(_unknown_text(name))
    base = _TASKS[name]
    return _varied(base, settings, task_id) if at else base


def _varied(base: Task, text: str, task_id: str) -> Task:
    """Return `base` with the settings of `text`, such as `size=64+frames=1`."""
    known = inspect.signature(base.vary).parameters if base.vary else {}
    defaults = {key: parameter.default for key, parameter in known.items()}
    values = dict(defaults)
    for part in text.split("+"):
        key, equals, value = part.partition("=")
        if key not in known:
            raise UnknownTask(
                f"task {task_id!r} has no setting {key!r}{_nearest(key, list(known))}; "
                f"settings of {base.id}: {', '.join(known) or 'none'}"
            )
        flag = isinstance(defaults[key], bool)
        if not (value.isdecimal() if equals else flag) or (flag and value not in ("", "0", "1")):
            form = key if flag else f"{key}=NUMBER"
            raise UnknownTask(f"task {task_id!r}: expected {form}, not {part!r}")
        values[key] = value != "0" if flag else int(value)
    changed = {key: value for key, value in values.items() if value != defaults[key]}
    if not changed or base.vary is None:
        return base
    try:
        result = base.vary(**changed)
    except ValueError as error:
        raise UnknownTask(f"task {task_id!r}: {error}") from None
    # A default may depend on another setting, so what changes nothing shows only in the result.
    for key in list(changed):
        rest = {other: value for other, value in changed.items() if other != key}
        with contextlib.suppress(ValueError):
            changed = rest if base.vary(**rest) == result else changed
    if not changed:
        return base
    words = [key if value is True else f"{key}={int(value)}" for key, value in changed.items()]
    return replace(result, id=f"{base.id}@{'+'.join(words)}", vary=base.vary)


def make(task_id: str, seed: int | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """Build the environment of a task, without gymnasium's per-step checks.

    Args:
        task_id: for example `mbbl/HalfCheetah`.
        seed: seeds the environment and its action space: the first `reset()` without a seed then
            equals `reset(seed=seed)` and later ones continue the stream.
        **options: any of the task's `options`, for example `render_mode="rgb_array"`.

    Returns:
        A new environment, not yet reset.

    Raises:
        UnknownTask: if the id is not registered.
        ValueError: if the task has no option of that name, or the option refuses its value.
    """
    entry = task(task_id)
    for name in options:
        if name not in entry.options:
            raise ValueError(
                f"{task_id} has no option {name!r}{_nearest(name, entry.options)}; "
                f"options: {', '.join(entry.options) or 'none'}"
            )
    limit = {"max_episode_steps": entry.max_episode_steps} if entry.wrapped_limit else {}
    arguments = {**entry.kwargs, **limit, **options}
    with warnings.catch_warnings():
        # Of version 4, which is here on purpose: published numbers are of it.
        warnings.filterwarnings("ignore", ".*is out of date")
        env = gymnasium.make(entry.gymnasium_id, disable_env_checker=True, **arguments)
    if seed is not None:
        _seed(env, seed)
    return env


def _seed(env: gymnasium.Env[Any, Any], seed: int) -> None:
    # What Env.reset(seed=...) does to the generator, without the reset.
    base = env.unwrapped
    base._np_random, base._np_random_seed = seeding.np_random(seed)
    # A seed of its own: with the same one, the first random actions would be the reset noise.
    env.action_space.seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))


def _suites() -> list[str]:
    return sorted({task.suite for task in _TASKS.values()})


def _unknown_text(task_id: str) -> str:
    text = f"unknown task {task_id!r}{_nearest(task_id, list(_TASKS))}"
    suite = task_id.partition("/")[0]
    if suite in _suites():
        names = ", ".join(known.partition("/")[2] for known in list_tasks(suite))
        return f"{text}; tasks of {suite}: {names}"
    return f"{text}; suites: {', '.join(_suites())}"


def _nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """` (did you mean ...?)` for the nearest known name, case ignored, or an empty string."""
    folded = {candidate.casefold(): candidate for candidate in known}
    for candidate in known:
        # Someone who leaves the suite out still gets the full id.
        folded.setdefault(candidate.rpartition("/")[2].casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {folded[found[0]]!r}?)" if found else ""

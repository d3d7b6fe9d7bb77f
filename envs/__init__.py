"""Environments of the suites: facts of every task, and saving an environment in mid-episode.

`make` builds a task, `task` gives its facts, `list_tasks` names them all. A file of this folder
with a tuple `TASKS` is a suite; nothing has to be registered anywhere. Importing this package
also registers every task with gymnasium; it imports no simulator.
"""

from __future__ import annotations

import importlib
import pkgutil

from envs.parts.pixels import NoRendering, choose_gl
from envs.parts.registry import Task, UnknownTask, list_tasks, make, register, task
from envs.parts.state import load_state, save_state

__all__ = [
    "NoRendering",
    "Task",
    "UnknownTask",
    "list_tasks",
    "load_state",
    "make",
    "save_state",
    "task",
]

# Before anything imports mujoco, which reads the choice then.
choose_gl()

for _file in pkgutil.iter_modules(__path__):
    if not _file.ispkg:
        for _task in importlib.import_module(f"envs.{_file.name}").TASKS:
            register(_task)

"""Environments of the suite: a registry of tasks, and saving them in mid-episode.

`make` builds a task, `task` gives its facts, `list_tasks` names them all. Importing this package
also registers every task with gymnasium; it imports no simulator.
"""

from envs import dmc, gym_tasks, mbbl, metaworld, pomdp, toy
from envs.pixels import NoRendering, choose_gl
from envs.registry import Task, UnknownTask, list_tasks, make, register, task
from envs.state import load_state, save_state

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

# A suite is a module with `TASKS`; a new one is added to this line.
for _suite in (mbbl, gym_tasks, metaworld, pomdp, dmc, toy):
    for _task in _suite.TASKS:
        register(_task)

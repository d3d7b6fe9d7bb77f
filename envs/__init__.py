"""Environments of the suite: a registry of tasks, and saving them in mid-episode.

`make` builds a task, `task` gives its facts, `list_tasks` names them all. Importing this package
also registers every task with gymnasium; it imports no simulator.
"""

from envs import gym_tasks, mbbl
from envs.registry import Task, UnknownTask, list_tasks, make, register, task
from envs.state import load_state, save_state

__all__ = [
    "Task",
    "UnknownTask",
    "list_tasks",
    "load_state",
    "make",
    "save_state",
    "task",
]

# A suite is a module with `TASKS`; a new one is added to this line.
for _suite in (mbbl, gym_tasks):
    for _task in _suite.TASKS:
        register(_task)

"""The files of a run directory: their format and their columns."""

from __future__ import annotations

FORMAT = 1
"""Of run.json and experiment.json; another one is refused."""

CSV_FILES = ("evaluations", "train", "timing")

EVALUATION_COLUMNS = ("env_step", "episode", "return", "length", "success")
SUCCESS_COLUMNS = ("final_success",)
"""Behind the others in evaluations.csv of tasks that report success."""

TRAIN_COLUMNS = ("env_step", "train_return", "train_length")
"""Of train.csv; the agent's metrics follow."""

PHASES = ("env", "act", "update", "eval")
"""What the time of a run goes to."""

TIMING_COLUMNS = ("env_step", *PHASES)
"""Of timing.csv: seconds since the start of the run, over all its processes."""

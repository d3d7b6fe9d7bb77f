"""Numbers taken from papers, shipped as CSV files beside this module; README.md explains them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import IO, Any

import pandas as pd

from analysis.data.experiment import Measure
from analysis.statistics.run_statistics import RUN_STATISTICS

STATISTICS = {
    **{name: statistic.text for name, statistic in RUN_STATISTICS.items()},
    # Said otherwise here, where it stands beside `best_mean`.
    "best": "best evaluation of each run",
    "best_mean": "best evaluation of the mean over seeds",
    "end": "end of training, over which evaluations is not stated",
    "point": "learning curve at this number of steps",
    "training": "exploring training episodes at the end",
    "total": "the whole run",
    "unstated": "not stated",
}
"""What a number is of its run; those of `RUN_STATISTICS` come first."""


@dataclass(frozen=True)
class Published:
    """A number that someone published.

    Attributes:
        task: task id here, or the id that the task would have.
        method: name of the algorithm here, or the name that it would have.
        printed: name of the method in the source.
        metric: `return` (in the task's reward units), `success (any step)`, `success (last step)`
            (both in [0, 1]) or `hours`.
        statistic: what the number is of its run, a name in `STATISTICS`.
        steps: environment steps of the run, None if not stated.
        mean: the number; None where the source prints that there is none.
        std: what the source prints after ±; None if nothing.
        spread: what `std` is: `std` or `population std` over seeds, `standard error`, `episodes`
            (of one trained agent), `tasks`, or `unstated`; empty without one.
        seeds: number of seeds, None if not stated.
        environment: which simulator or version of the tasks.
        source: name in `sources()`.
        reading: how the number was read: table, text, figure, file, or summary (second-hand).
        copied_from: the cell that this one was copied from, `<source>: <printed>`; empty for the
            source's own number.
        original_mean: the mean of that cell where it was mis-copied, else None.
        original_std: the std of that cell where it was mis-copied, else None.
        note: anything else.
    """

    task: str
    method: str
    printed: str
    metric: str
    statistic: str
    steps: int | None
    mean: float | None
    std: float | None
    spread: str
    seeds: int | None
    environment: str
    source: str
    reading: str
    copied_from: str
    original_mean: float | None
    original_std: float | None
    note: str

    @property
    def miscopied(self) -> bool:
        """Whether the cell was copied from another table, wrongly."""
        return self.original_mean is not None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, None if it is not known.

        A spread that the source does not explain is taken to be one.
        """
        if self.std is None or self.spread in ("episodes", "tasks"):
            return None
        if self.spread == "standard error":
            return None if self.seeds is None else self.std * self.seeds**0.5
        return self.std


@dataclass(frozen=True)
class Scale:
    """The constants that map a value to a normalised score.

    Attributes:
        measure: what the value measures: `return`, or `success` at any step of an episode.
        random: value that scores 0, in the task's reward units or as a rate in [0, 1].
        reference: value that scores 1, in the same unit.
        source: where the two come from.
    """

    measure: Measure
    random: float
    reference: float
    source: str


@cache
def normalisation() -> pd.DataFrame:
    """Return all constants: a frame indexed by task id with the columns of a `Scale`."""
    return _read("normalisation.csv").set_index("task")


@cache
def scale(task: str) -> Scale | None:
    """Return the constants of a task, None if it has none; the settings of its id play no part."""
    name, constants = task.partition("@")[0], normalisation()
    if name not in constants.index:
        return None
    row: Any = constants.loc[name]
    return Scale(row["measure"], float(row["random"]), float(row["reference"]), row["source"])


@cache
def numbers() -> tuple[Published, ...]:
    """Return every published number, in the order of published.csv."""
    with _open("published.csv") as file:
        return tuple(_number(row) for row in csv.DictReader(file))


@cache
def printed_names() -> dict[str, str]:
    """Return what papers call each method; of several names the first in published.csv."""
    names: dict[str, str] = {}
    for number in numbers():
        names.setdefault(number.method, number.printed)
    return names


@cache
def sources() -> pd.DataFrame:
    """Return where the numbers come from, the first choice among several first.

    Returns:
        A frame indexed by the short name of the source with the columns `reference` and `note`.
    """
    return _read("sources.csv").fillna("").set_index("source")


def _open(name: str) -> IO[str]:
    return files(__package__).joinpath(name).open(encoding="utf-8")


def _read(name: str) -> pd.DataFrame:
    with _open(name) as file:
        return pd.read_csv(file)


def _number(row: dict[str, str]) -> Published:
    """Read a line of published.csv, in which an empty field is a number that is not known."""
    parsed: dict[str, Any] = dict(row)
    for field in ("steps", "seeds"):
        parsed[field] = int(row[field]) if row[field] else None
    for field in ("mean", "std", "original_mean", "original_std"):
        parsed[field] = float(row[field]) if row[field] else None
    return Published(**parsed)

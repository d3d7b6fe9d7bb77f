"""Numbers taken from papers, shipped as CSV files beside this module."""

from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def normalisation() -> pd.DataFrame:
    """Returns the constants that map a return to a normalised score.

    Returns:
        A frame indexed by task id with the columns `random` (return that scores 0), `reference`
        (return that scores 1), both in the task's reward units, and `source`.
    """
    with files(__package__).joinpath("normalisation.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col="task")

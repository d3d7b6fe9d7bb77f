"""How long the runs took: seconds per 1000 environment steps, split into the phases of a run."""

import pandas as pd

from analysis.data.experiment import RUN, Experiment
from runners.cells.schema import PHASES


def measure_run_times(experiment: Experiment) -> pd.DataFrame:
    """Measure every run by its last line of timing.csv.

    Returns:
        One row per run: task, label, seed, the seconds per 1000 environment steps in each of
        `PHASES` and in `total`, and mark, which says why a run does not count.
    """
    phases = list(PHASES)
    timing = experiment.timing[experiment.timing["env_step"] > 0].sort_values("env_step")
    final = timing.groupby(RUN, as_index=False).last()
    final[phases] = final[phases].mul(1000 / final["env_step"], axis=0)
    final["total"] = final[phases].sum(axis=1, skipna=False)
    times = experiment.runs[[*RUN, "status"]].merge(final, on=RUN, how="left")
    times["mark"] = times["status"].where(times["status"] != "done", "")
    times.loc[(times["mark"] == "") & times["total"].isna(), "mark"] = "without timing"
    return times[[*RUN, *PHASES, "total", "mark"]]

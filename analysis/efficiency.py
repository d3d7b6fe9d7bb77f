"""How fast methods learn: `python -m analysis.efficiency results/quick --score 0.5`."""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.data.experiment import Experiment, Measure
from analysis.data.load import load
from analysis.data.logs import ExperimentError
from analysis.data.published import scale
from analysis.data.values import areas, steps_to_thresholds
from analysis.drawing.tables import Table, seed_table
from runners.cells.errors import EXIT_USAGE

SCORE = 0.5
AREA_NOTE = (
    "The area under a run's curve of evaluations, divided by the steps from the first to the last: "
    "the mean of the curve, in the unit of the return."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for a folder that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.efficiency",
        description="Print the area under the learning curves and the steps to a threshold.",
    )
    parser.add_argument("experiment", type=Path, help="experiment folder, such as results/quick")
    parser.add_argument(
        "--score",
        type=float,
        default=SCORE,
        help="normalised score to reach: 0 is random play, 1 the reference (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        experiment = load(options.experiment)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    width = shutil.get_terminal_size((120, 24)).columns
    for table in tables(experiment, options.score):
        print(table.text(width))
    return 0


def tables(experiment: Experiment, score: float = SCORE) -> list[Table]:
    """Return the table of areas, and of steps to a threshold where tasks have constants for it.

    Args:
        experiment: the runs.
        score: the normalised score to reach.
    """
    found = [
        seed_table(
            "Return, area under the learning curve",
            areas(experiment),
            experiment.names,
            experiment.tasks,
            notice=experiment.protocol.notice,
            better="higher",
            notes=[AREA_NOTE],
        )
    ]
    by_measure: dict[Measure, dict[str, float]] = {}
    for task, (measure, threshold) in thresholds(experiment, score).items():
        by_measure.setdefault(measure, {})[task] = threshold
    for measure, known in by_measure.items():
        found.append(
            seed_table(
                f"Environment steps to a normalised score of {score:g} ({measure})",
                steps_to_thresholds(experiment, known, measure),
                experiment.names,
                list(known),
                notice=experiment.protocol.notice,
                digits=0,
                notes=[_threshold_note(known)],
            )
        )
    return found


def thresholds(experiment: Experiment, score: float) -> dict[str, tuple[Measure, float]]:
    """Return the measure and the result of a normalised score, for the tasks with constants."""
    found = {}
    for task in experiment.tasks:
        if known := scale(task):
            result = known.random + score * (known.reference - known.random)
            found[task] = known.measure, result
    return found


def _threshold_note(known: Mapping[str, float]) -> str:
    results = ", ".join(f"{task} {result:,.4g}" for task, result in known.items())
    return (
        "A run counts with its first evaluation that reaches the threshold; one that reaches it "
        f"never is named, but is not in the mean. Thresholds: {results}."
    )


if __name__ == "__main__":
    sys.exit(main())

"""Published numbers beside measured ones, and what may be said of the two."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from analysis.data.experiment import SUCCESS_MEASURES, Experiment, Measure, natural
from analysis.data.published import STATISTICS, Published, numbers, sources
from analysis.data.values import run_values
from analysis.drawing.tables import Cell, seed_cell
from analysis.papers.targets import published_label
from analysis.statistics.run_statistics import RUN_STATISTICS

ENVIRONMENTS = {
    "mbbl": "MBBL",
    "gym": "MuJoCo",
    "dmc": "DMControl",
    "metaworld": "Meta-World v3",
    "pomdp": "velocities masked",
}
"""How the environments of each suite here are named in the words of published.csv."""

DEFAULT_SIZE = "84"
"""Height and width in pixels where a task id does not give them."""

METRICS: dict[Measure, str] = {
    "return": "return",
    **{measure: f"success ({reading})" for measure, reading in SUCCESS_MEASURES.items()},
}
"""What published.csv calls each measure."""


@dataclass(frozen=True)
class Measured:
    """The runs of an algorithm with its default options on one task of one experiment.

    Attributes:
        experiment: where the runs are, and the protocol that they followed.
        task: task id.
        statistic: what the value is of each run, a name in `RUN_STATISTICS`.
        cell: mean and spread over the runs that count.
        measure: what an evaluation measures, as in `Experiment.curves`.
    """

    experiment: Experiment
    task: str
    statistic: str
    cell: Cell
    measure: Measure = "return"

    @property
    def metric(self) -> str:
        """The measure in the words of published.csv."""
        return METRICS[self.measure]


@dataclass(frozen=True)
class Verdict:
    """What a measured value says about a published one.

    Attributes:
        word: `inside`, `above` or `below` the published mean ± its spread, `not comparable`,
            `not measured` or `not published`.
        reasons: why the two are not comparable.
    """

    word: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.word}: {', '.join(self.reasons)}" if self.reasons else self.word


@dataclass(frozen=True)
class Row:
    """What is known of an algorithm on one task.

    Attributes:
        task: task id.
        published: the number to compare with, if there is one.
        measured: the runs to compare, if there are any.
        verdict: what the comparison says.
        others: numbers of other sources, and copies with errors.
    """

    task: str
    published: Published | None
    measured: Measured | None
    verdict: Verdict
    others: tuple[Published, ...] = ()


def verdict(published: Published | None, measured: Measured | None) -> Verdict:
    """Judge a measured mean by a published mean and its spread, if both mean the same."""
    if measured is None or measured.cell.value is None:
        return Verdict("not measured")
    if published is None:
        return Verdict("not published")
    reasons = tuple(_differences(published, measured))
    if reasons or published.mean is None or published.deviation is None:
        return Verdict("not comparable", reasons or ("published without a spread over seeds",))
    distance = measured.cell.value - published.mean
    if abs(distance) <= published.deviation:
        return Verdict("inside")
    return Verdict("above" if distance > 0 else "below")


def measured_beside_published(algo: str, experiments: Iterable[Experiment]) -> list[Row]:
    """Put the published numbers of an algorithm beside its runs.

    Of several experiments and sources on a task, the pair is taken that can be compared; else
    full protocols come before reduced ones, then long runs before short ones, then the sources in
    the order of sources.csv. Runs with other options than the defaults are left to the reports,
    but for those that the published numbers of a method are of (`targets.PUBLISHED_AS`).

    Args:
        algo: name of the algorithm.
        experiments: the experiments to look for its runs in.

    Returns:
        One row per task with a published return or success rate, or with a run; measured tasks
        first, then by name.
    """
    known: dict[str, list[Published]] = {}
    for number in sorted(numbers(), key=_preference):
        if number.method == algo and number.metric != "hours":
            known.setdefault(number.task, []).append(number)
    runs: dict[str, list[Measured]] = {}
    for experiment in experiments:
        for measured in _measure(algo, experiment, known):
            runs.setdefault(measured.task, []).append(measured)
    measured_tasks = {published_task(task) for task in runs}
    tasks = [*(task for task in known if task not in measured_tasks), *runs]
    rows = [_row(task, known.get(published_task(task), []), runs.get(task, [])) for task in tasks]
    return sorted(rows, key=lambda row: (row.measured is None, _suite(row.task), natural(row.task)))


def published_task(task: str) -> str:
    """Return the id that published.csv has for a task: of its settings only `pixels`."""
    name, settings = _settings(task)
    return f"{name}@pixels" if "pixels" in settings else name


def environment(task: str) -> str:
    """Name a task's environment in the words of published.csv; the suite if it has no name.

    Settings that published.csv has no words for are added as they are, so that a task with them is
    not taken for the published one. Published images have shadows, which is a setting here.
    """
    name, settings = _settings(task)
    suite = name.split("/")[0]
    words = [ENVIRONMENTS.get(suite, suite)]
    if suite == "gym":
        words[0] += f" {name.rpartition('-')[2]}"
    if suite == "metaworld" or settings.pop("pixels", None) is not None:
        size = settings.pop("size", DEFAULT_SIZE)
        shadows = "" if settings.pop("shadows", None) is not None else " without shadows"
        words.append(f"{size}×{size} pixels{shadows}")
    elif suite == "dmc":
        words.append("states")
    words += [f"{key}={value}" if value else key for key, value in settings.items()]
    return ", ".join(words)


def _settings(task: str) -> tuple[str, dict[str, str]]:
    """Split a task id into the name and the settings; the value of a flag is empty."""
    name, _, text = task.partition("@")
    parts = (part.partition("=") for part in text.split("+") if part)
    return name, {key: value for key, _, value in parts}


def _measure(algo: str, experiment: Experiment, known: Container[str]) -> Iterator[Measured]:
    """Sum up the runs of an algorithm, for each task, each of its measures and each statistic."""
    for measure in METRICS:
        for statistic in RUN_STATISTICS:
            values = run_values(experiment, statistic, measure)
            for (key, label), group in values.groupby(["task", "label"]):
                task = str(key)
                if label != (published_label(algo) if published_task(task) in known else algo):
                    continue
                if measure in experiment.measures(task) and (group["mark"] != "missing").any():
                    yield Measured(experiment, task, statistic, seed_cell(group), measure)


def _row(task: str, known: Sequence[Published], runs: Sequence[Measured]) -> Row:
    """Choose what to compare on a task; `known` comes in the order of preference."""
    originals: Sequence[Published | None] = [x for x in known if not x.copied_from] or [None]
    measurements: Sequence[Measured | None] = runs or [None]
    pairs = [
        (published, measured)
        for published in originals
        for measured in measurements
        if measured is None
        or (
            measured.statistic == _statistic(published, measured.experiment)
            and measured.metric == _metric(published, measured)
        )
    ]
    published, measured = min(pairs, key=lambda pair: _rank(*pair))
    others: dict[tuple[str, str], Published] = {}
    for number in known:
        if number.miscopied or not number.copied_from:
            others.setdefault((number.source, number.printed), number)
    if published:
        del others[published.source, published.printed]
    return Row(task, published, measured, verdict(published, measured), tuple(others.values()))


def _rank(published: Published | None, measured: Measured | None) -> tuple[bool, bool, int]:
    """Sort comparable pairs first, then full protocols, then long runs."""
    if measured is None:
        return False, False, 0
    protocol = measured.experiment.protocol
    comparable = verdict(published, measured).word in ("inside", "above", "below")
    return not comparable, protocol.reduced, -protocol.steps


def _preference(number: Published) -> tuple[int, int, int]:
    """Sort by source, long runs first; then by statistic, those measured here first."""
    source = list(sources().index).index(number.source)
    return source, -(number.steps or 0), list(STATISTICS).index(number.statistic)


def _suite(task: str) -> int:
    """Sort the suites that are here first."""
    suite = task.split("/")[0]
    return list(ENVIRONMENTS).index(suite) if suite in ENVIRONMENTS else len(ENVIRONMENTS)


def _statistic(published: Published | None, experiment: Experiment) -> str:
    """Return the statistic to measure: the published one if known here, else the protocol's."""
    reported = experiment.protocol.reported
    if published is None:
        return reported[0]
    if published.statistic == "end":
        return next((name for name in reported if RUN_STATISTICS[name].at_the_end), "last")
    return published.statistic if published.statistic in RUN_STATISTICS else reported[0]


def _metric(published: Published | None, measured: Measured) -> str:
    """Return the metric to measure: the published one if the runs have it, else the task's main."""
    known = [METRICS[measure] for measure in measured.experiment.measures(measured.task)]
    return published.metric if published and published.metric in known else known[0]


def _differences(published: Published, measured: Measured) -> Iterator[str]:
    """Say why two numbers do not mean the same."""
    protocol = measured.experiment.protocol
    if published.mean is None:
        yield published.note
    here = environment(measured.task)
    if published.environment != here:
        yield f"{published.environment}, not {here}"
    if published.metric != measured.metric:
        yield f"published is {published.metric}"
    if protocol.reduced:
        yield "reduced protocol"
    if published.steps is None:
        yield "published budget not stated"
    elif published.steps != protocol.steps:
        yield f"{protocol.steps:,} of {published.steps:,} steps"
    same = published.statistic == measured.statistic
    at_the_end = RUN_STATISTICS[measured.statistic].at_the_end
    if not same and not (published.statistic == "end" and at_the_end):
        yield "other statistic"
    if measured.cell.n == 1:
        yield "one seed"

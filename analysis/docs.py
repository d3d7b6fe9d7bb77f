"""The generated parts of the algorithm pages and of the README: `python -m analysis.docs`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.data.experiment import Experiment
from analysis.data.kept import kept_experiments
from analysis.data.logs import ExperimentError
from analysis.data.published import STATISTICS, Published, sources
from analysis.drawing.tables import DASH, Cell, markdown_text
from analysis.papers.claim_list import claims
from analysis.papers.claim_tests import decide
from analysis.papers.decided import decided_claims
from analysis.papers.verdicts import Measured, Row, environment, measured_beside_published
from runners.cells.errors import EXIT_USAGE
from runners.cells.files import write_atomic

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"
CLAIMS_BEGIN = "<!-- claims:begin -->"
CLAIMS_END = "<!-- claims:end -->"
COMMAND = "python -m analysis.docs"
READINGS = {
    "success (any step)": "rate of success at any step",
    "success (last step)": "rate of success at the last step",
}
HEADING = "## Published and measured"
COLUMNS = ["task", "published", "source", "measured", "experiment", "verdict", "also published"]
RULES = (
    f"Written by `{COMMAND}`. Mean ± spread as printed (n seeds, ? where not stated), beside runs "
    "with default options kept in this repository. Inside, above, below: where the measured mean "
    "lies with respect to the published mean ± spread; a verdict needs the same environment, "
    "statistic and budget, a full protocol and two seeds. Copies in later tables are left out "
    "unless they are wrong; other sources may have other budgets and statistics."
)


class PageError(Exception):
    """A page is not what it should be; the message is one line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 1 for stale pages, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Write published and measured results into the pages of the methods, and "
        "the claims that are decided into the README.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    parser.add_argument("--pages", type=Path, default=Path("docs/algorithms"), metavar="FOLDER")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="FILE")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        experiments = kept_experiments(options.results)
        texts = {page: page.read_text(encoding="utf-8") for page in find_pages(options.pages)}
        new = {page: with_table(text, page, experiments) for page, text in texts.items()}
        texts[options.readme] = options.readme.read_text(encoding="utf-8")
        new[options.readme] = with_claims(texts[options.readme], options.readme, experiments)
        stale = {page: text for page, text in new.items() if text != texts[page]}
        for page, text in stale.items():
            if options.check:
                print(f"stale: {page}; run {COMMAND}", file=sys.stderr)
            else:
                write_atomic(page, text)
                print(f"written: {page}")
    except (ExperimentError, PageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 1 if stale and options.check else 0


def find_pages(folder: Path) -> list[Path]:
    """List the pages, `<algorithm>.md`.

    Raises:
        PageError: there is none.
    """
    pages = sorted(folder.glob("*.md"))
    if not pages:
        raise PageError(f"no page in '{folder}'; expected {folder}/<algorithm>.md")
    return pages


def with_table(text: str, page: Path, experiments: Sequence[Experiment]) -> str:
    """Return a page's text with its table up to date; a page without markers gets them.

    Raises:
        PageError: the markers are not one pair.
    """
    if BEGIN not in text and END not in text:
        text = f"{text.rstrip()}\n\n{HEADING}\n\n{BEGIN}\n{END}\n"
    return _between(text, (BEGIN, END), table(page, experiments), page)


def with_claims(text: str, readme: Path, experiments: Sequence[Experiment]) -> str:
    """Return the README's text with its table of decided claims up to date.

    Raises:
        PageError: the markers are not one pair.
    """
    block = decided_claims(decide(claims(), experiments))
    return _between(text, (CLAIMS_BEGIN, CLAIMS_END), block, readme)


def table(page: Path, experiments: Sequence[Experiment]) -> str:
    """Write the table of the algorithm that the page is named after, with its sources."""
    rows = measured_beside_published(page.stem, experiments)
    if not rows:
        return f"Nothing is published or measured yet. Written by `{COMMAND}`."
    grid = [COLUMNS, ["---"] * len(COLUMNS), *(_texts(row, page) for row in rows)]
    lines = ["| " + " | ".join(texts) + " |" for texts in grid]
    return "\n".join([RULES, "", *lines, "", *_legend(rows)])


def _between(text: str, markers: tuple[str, str], block: str, page: Path) -> str:
    """Put a block between two markers of a page's text."""
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise PageError(f"{page}: expected '{begin}' once and '{end}' once below it")
    return f"{text.split(begin)[0]}{begin}\n{block}\n{end}{text.split(end)[1]}"


def _texts(row: Row, page: Path) -> list[str]:
    published, measured, verdict = row.published, row.measured, row.verdict
    others = "; ".join([*_other_results(row), *_wrong_copies(row)])
    return [
        row.task,
        _number(published) if published else DASH,
        markdown_text(_source(published)) if published else DASH,
        measured.cell.text(_digits(measured.metric)) if measured else DASH,
        _experiment(measured, page) if measured else DASH,
        markdown_text(str(verdict)),
        markdown_text(others) or DASH,
    ]


def _number(number: Published) -> str:
    marks = () if number.mean is not None else (number.note,)
    cell = Cell(number.mean, number.seeds or "?", number.std, marks=marks)
    return cell.text(_digits(number.metric))


def _digits(metric: str) -> int:
    """Return the decimals to print; a success rate is a fraction of 1."""
    return 1 if metric == "return" else 2


def _reading(metric: str) -> list[str]:
    """Return what is to be said of a metric among the facts of a number; nothing of the return."""
    return [READINGS[metric]] if metric in READINGS else []


def _name(number: Published) -> str:
    """Return the source, with the method's name where it is not just the algorithm's."""
    plain = "".join(filter(str.isalnum, number.printed.lower()))
    return number.source if plain == number.method else f"{number.source}, {number.printed}"


def _source(number: Published) -> str:
    facts = [
        "statistic not stated" if number.statistic == "unstated" else number.statistic,
        f"{number.steps:,} steps" if number.steps else "steps not stated",
        *_reading(number.metric),
    ]
    if number.environment != environment(number.task):
        facts.append(number.environment)
    return f"{_name(number)} ({', '.join(facts)})"


def _other_results(row: Row) -> list[str]:
    return [f"{_number(x)} {_name(x)}" for x in row.others if not x.miscopied]


def _wrong_copies(row: Row) -> list[str]:
    """List the wrong values that later tables print, each with the names of the tables."""
    tables: dict[str, list[str]] = {}
    for number in row.others:
        if number.miscopied:
            text = _number(number)
            tables.setdefault(text, []).append(number.source)
    return [f"copied wrongly as {text} in {', '.join(names)}" for text, names in tables.items()]


def _experiment(measured: Measured, page: Path) -> str:
    experiment = measured.experiment
    report = Path(os.path.relpath(experiment.path, page.parent), "report", "README.md")
    steps = f"{experiment.protocol.steps:,} steps"
    facts = ", ".join([measured.statistic, steps, *_reading(measured.metric)])
    return f"[{experiment.name}]({report.as_posix()}) ({facts})"


def _legend(rows: Sequence[Row]) -> list[str]:
    """Explain the statistics and list the sources that the table names."""
    used = [number for row in rows for number in (row.published, *row.others) if number]
    chosen = {row.published.statistic for row in rows if row.published}
    chosen |= {row.measured.statistic for row in rows if row.measured}
    chosen -= {"unstated"}
    meanings = [f"{name}: {STATISTICS[name]}" for name in STATISTICS if name in chosen]
    named = {number.source for number in used}
    lines = [f"{'; '.join(meanings)}.", ""] if meanings else []
    for name, reference, note in sources().itertuples(name=None):
        if name in named:
            lines.append(markdown_text(f"- {name}: {reference}. {note}".rstrip()))
    return lines


if __name__ == "__main__":
    sys.exit(main())

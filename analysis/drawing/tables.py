"""One table object and its four forms: Markdown, CSV, LaTeX and plain text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.statistics.types import Better
from runners.cells.files import write_atomic

DASH = "—"
TEX_HEADER = "% Needs \\usepackage{booktabs}.\n\n"
TEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "±": r"$\pm$", "−": "$-$", "–": "--", DASH: "---"}
)


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        value: mean over seeds, or an aggregate; None if there is not enough data.
        n: number of seeds, or a range such as "3–4" where tasks differ.
        std: sample standard deviation over seeds; None for one seed or an aggregate.
        interval: low and high end of a confidence interval, for an aggregate.
        marks: what is wrong with the runs that do not count, such as "1 failed".
    """

    value: float | None = None
    n: int | str = 0
    std: float | None = None
    interval: tuple[float, float] | None = None
    marks: tuple[str, ...] = ()

    def text(self, digits: int) -> str:
        """Return the entry as text, numbers with `digits` decimals."""
        if self.value is None:
            return f"{DASH} ({', '.join(self.marks) or 'no data'})"
        notes = ", ".join([f"n={self.n}", *self.marks])
        return f"{_number(self.value, digits)}{self._spread(digits)} ({notes})"

    def _spread(self, digits: int) -> str:
        if self.interval is not None:
            low, high = (_number(end, digits) for end in self.interval)
            return f" [{low}, {high}]"
        return f" ± {_number(self.std, digits)}" if self.std is not None else ""


@dataclass(frozen=True)
class Table:
    """A table of cells with everything a reader needs to understand it.

    Attributes:
        title: what the numbers are.
        corner: heading of the first column.
        rows: row names, such as tasks.
        columns: column names, such as methods.
        cells: the entry of each (row, column).
        notes: sentences below the table.
        notice: what a reduced protocol must say; empty for a full one.
        digits: decimals to print.
        better: which is better, if the best entry of a row may be set in bold, else None.
    """

    title: str
    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: dict[tuple[str, str], Cell]
    notes: Sequence[str] = ()
    notice: str = ""
    digits: int = 1
    better: Better | None = None

    def markdown(self) -> str:
        """Return the table in Markdown."""
        grid = [[row, *self._texts(row, "**{}**")] for row in self.rows]
        lines = [[self.corner, *self.columns], ["---"] + ["---:"] * len(self.columns), *grid]
        body = "\n".join(
            "| " + " | ".join(markdown_text(text) for text in line) + " |" for line in lines
        )
        return f"### {self.title}\n\n{body}\n\n{self._footer(chr(10) * 2)}\n"

    def latex(self) -> str:
        """Return the table as a LaTeX float; needs the package booktabs."""
        grid = [[_tex(row), *self._texts(row, r"\textbf{{{}}}", _tex)] for row in self.rows]
        lines = [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_tex(self.title)}. {_tex(self._footer(' '))}}}",
            rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}",
            r"\toprule",
            " & ".join(_tex(name) for name in [self.corner, *self.columns]) + r" \\",
            r"\midrule",
            *(" & ".join(texts) + r" \\" for texts in grid),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def text(self, width: int) -> str:
        """Return the table as plain text, further columns in blocks below where `width` is full."""
        grid = [[self.corner, *self.columns]]
        grid += [[row, *self._texts(row, "{}")] for row in self.rows]
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        blocks = []
        for block in _blocks(widths, width):
            lines = [
                "  ".join([line[0].ljust(widths[0]), *_right(line, widths, block)]) for line in grid
            ]
            blocks.append("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]))
        return f"{self.title}\n\n" + "\n\n".join(blocks) + f"\n\n{self._footer(chr(10))}\n"

    def records(self) -> list[dict[str, object]]:
        """Return the table in long form, one dict per entry, with unrounded numbers."""
        records: list[dict[str, object]] = []
        for (row, column), cell in self.cells.items():
            low, high = cell.interval or (None, None)
            records.append(
                {
                    "quantity": self.title,
                    "row": row,
                    "method": column,
                    "value": cell.value,
                    "std": cell.std,
                    "low": low,
                    "high": high,
                    "n": cell.n,
                    "not_counted": "; ".join(cell.marks),
                    "notice": self.notice,
                }
            )
        return records

    def _texts(self, row: str, bold: str, escape: Callable[[str], str] = str) -> list[str]:
        winner = self.winner(row)
        texts = [(name, escape(self.cells[row, name].text(self.digits))) for name in self.columns]
        return [bold.format(text) if name == winner else text for name, text in texts]

    def winner(self, row: str) -> str | None:
        """Return the column whose mean ± std lies clear of all others in the row, if any does."""
        if self.better is None or self.notice:
            return None
        sign = 1.0 if self.better == "higher" else -1.0
        spans = {}
        for column in self.columns:
            cell = self.cells[row, column]
            if cell.value is not None:
                spans[column] = (sign * cell.value, cell.std)
        if len(spans) < 2 or any(std is None for _, std in spans.values()):
            return None
        first = max(spans, key=lambda column: spans[column][0])
        low = spans[first][0] - (spans[first][1] or 0.0)
        clear = all(
            low > value + (std or 0.0) for column, (value, std) in spans.items() if column != first
        )
        return first if clear and not self.cells[row, first].marks else None

    def _footer(self, separator: str) -> str:
        notice = [f"{self.notice[0].upper()}{self.notice[1:]}."] if self.notice else []
        return separator.join([*notice, *self.notes])


def seed_table(
    title: str,
    values: pd.DataFrame,
    names: dict[str, str],
    tasks: Sequence[str],
    *,
    notice: str,
    digits: int = 1,
    better: Better | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Build a table of mean ± std over seeds.

    Args:
        title: what the numbers are.
        values: one row per run: task, label, value, mark. A run counts if its mark is empty.
        names: the column heading of each label.
        tasks: the rows.
        notice: what a reduced protocol must say.
        digits: decimals to print.
        better: which is better, if the best entry of a row may be set in bold.
        notes: sentences below the table.
    """
    groups = dict(iter(values.groupby(["task", "label"])))
    empty = values.iloc[:0]
    cells = {
        (task, name): seed_cell(groups.get((task, label), empty))
        for task in tasks
        for label, name in names.items()
    }
    spread = "Mean ± sample standard deviation over n seeds; only finished runs count."
    return Table(
        title, "task", tasks, list(names.values()), cells, [spread, *notes], notice, digits, better
    )


def seed_cell(values: pd.DataFrame) -> Cell:
    """Sum up the runs of one method on one task; columns value and mark as in `seed_table`."""
    counted = values.loc[values["mark"] == "", "value"]
    marks = values.loc[values["mark"] != "", "mark"].value_counts(sort=False).sort_index()
    if counted.empty and len(marks) == 1:
        return Cell(marks=(str(marks.index[0]),))
    texts = tuple(f"{number} {mark}" for mark, number in marks.items())
    if counted.empty:
        return Cell(marks=texts)
    std = float(counted.std()) if len(counted) > 1 else None
    return Cell(float(counted.mean()), len(counted), std, marks=texts)


def write_tables(tables: Sequence[Table], stem: Path) -> None:
    """Write tables to `stem`.md, `stem`.tex and, in long form, `stem`.csv."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(stem.with_suffix(".md"), "\n".join(table.markdown() for table in tables))
    tex = TEX_HEADER + "\n".join(table.latex() for table in tables)
    write_atomic(stem.with_suffix(".tex"), tex)
    tidy = pd.DataFrame([record for table in tables for record in table.records()])
    write_atomic(stem.with_suffix(".csv"), tidy.to_csv(index=False, float_format="%.10g"))


def markdown_text(text: str) -> str:
    """Escape what would end a Markdown cell or be taken for a tag."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def _number(value: float | None, digits: int) -> str:
    # Adding 0.0 turns the -0.0 that rounding leaves into 0.0.
    return f"{round(value or 0.0, digits) + 0.0:,.{digits}f}"


def _blocks(widths: list[int], width: int) -> list[list[int]]:
    """Split the columns after the first into blocks that fit beside the first."""
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for i in range(1, len(widths)):
        if blocks[-1] and used + 2 + widths[i] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(i)
        used += 2 + widths[i]
    return blocks


def _right(line: list[str], widths: list[int], block: list[int]) -> list[str]:
    return [line[i].rjust(widths[i]) for i in block]


def _tex(text: str) -> str:
    """Escape text for LaTeX."""
    text = text.translate(TEX_ESCAPES)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", text)

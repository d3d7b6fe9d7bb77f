"""The table object and its four forms."""

import io

import pandas as pd
import pytest

from analysis.drawing.tables import Cell, Table, seed_cell, seed_table

NOTICE = "reduced protocol `quick`: not comparable with published numbers"


def values(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["task", "label", "value", "mark"])


def table(notice="", better="higher") -> Table:
    runs = values(
        ("mbbl/A_1", "x", 10.0, ""),
        ("mbbl/A_1", "x", 12.0, ""),
        ("mbbl/A_1", "y", 1.0, ""),
        ("mbbl/A_1", "y", 3.0, ""),
        ("mbbl/A_1", "y", 9.0, "failed"),
        ("mbbl/B", "x", 1234.56, ""),
        ("mbbl/B", "y", float("nan"), "diverged"),
    )
    names = {"x": "X", "y": "Y & Z"}
    tasks = ["mbbl/A_1", "mbbl/B"]
    return seed_table("Return", runs, names, tasks, notice=notice, better=better)


def test_cell_texts():
    assert Cell(1234.56, 4, 7.25).text(1) == "1,234.6 ± 7.2 (n=4)"
    assert Cell(1.0, 1).text(1) == "1.0 (n=1)"
    assert Cell(1.0, 1, marks=("1 failed",)).text(0) == "1 (n=1, 1 failed)"
    assert Cell(0.5, "2–3", interval=(0.25, 0.75)).text(2) == "0.50 [0.25, 0.75] (n=2–3)"
    assert Cell(marks=("failed",)).text(1) == "— (failed)"
    assert Cell().text(1) == "— (no data)"
    assert Cell(-0.01, 1).text(1) == "0.0 (n=1)"


def test_mean_and_sample_deviation_by_hand():
    cell = seed_cell(values(*[("t", "x", number, "") for number in (1.0, 2.0, 6.0)]))
    assert cell.value == 3.0
    assert cell.std == pytest.approx(7**0.5)
    assert cell.n == 3


def test_marks_of_runs_that_do_not_count():
    runs = [("t", "x", 5.0, mark) for mark in ("failed", "failed", "running")]
    assert seed_cell(values(*runs)).text(1) == "— (2 failed, 1 running)"
    assert seed_cell(values(*runs[:2])).text(1) == "— (failed)"


def test_markdown():
    lines = table().markdown().splitlines()
    assert lines[2] == "| task | X | Y & Z |"
    assert lines[4] == "| mbbl/A_1 | **11.0 ± 1.4 (n=2)** | 2.0 ± 1.4 (n=2, 1 failed) |"
    assert lines[5] == "| mbbl/B | 1,234.6 (n=1) | — (diverged) |"


def test_markdown_escapes_bars_and_tags():
    text = Table("T", "task", ["a|b<c>"], [], {}).markdown()
    assert r"| a\|b&lt;c> |" in text


def test_latex():
    text = table().latex()
    assert r"\toprule" in text
    assert r"mbbl/A\_1 & \textbf{11.0 $\pm$ 1.4 (n=2)} & 2.0 $\pm$ 1.4 (n=2, 1 failed) \\" in text
    assert r"task & X & Y \& Z \\" in text
    assert "--- (diverged)" in text


def test_text_is_aligned_and_folds():
    wide = table().text(200)
    rows = [line for line in wide.splitlines() if line.startswith(("task", "mbbl"))]
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1
    narrow = table().text(40)
    assert max(len(line) for line in narrow.splitlines() if line.startswith("mbbl")) <= 40
    assert narrow.count("mbbl/B") == 2


def test_tidy_is_unrounded_and_complete():
    frame = pd.read_csv(io.StringIO(pd.DataFrame(table(NOTICE).records()).to_csv(index=False)))
    assert len(frame) == 4
    first = frame.iloc[0]
    assert (first["row"], first["method"], first["n"]) == ("mbbl/A_1", "X", 2)
    assert frame["value"].tolist()[:3] == [11.0, 2.0, 1234.56]
    assert frame["not_counted"].tolist()[3] == "diverged"
    assert frame["notice"].str.contains("reduced").all()


def test_reduced_tables_say_so_and_have_no_bold():
    reduced = table(NOTICE)
    for text in (reduced.markdown(), reduced.latex(), reduced.text(80)):
        assert "Reduced protocol" in text
        assert "**" not in text
        assert "textbf" not in text


def test_bold_needs_clear_spread_and_no_failed_seed():
    near = values(
        ("t", "x", 1.0, ""), ("t", "x", 3.0, ""), ("t", "y", 2.0, ""), ("t", "y", 4.0, "")
    )
    names = {"x": "X", "y": "Y"}
    assert "**" not in seed_table("R", near, names, ["t"], notice="", better="higher").markdown()
    # The lowest mean wins here, but one of its seeds failed.
    assert "**" not in table(better="lower").markdown()

"""The report as a whole: every file, every notice, and the command line."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.data.load import load
from analysis.data.published import normalisation
from analysis.data.scores import normalised_scores
from analysis.drawing import curves
from analysis.report import main
from analysis.statistics.aggregates import AGGREGATES
from tests.helpers.experiments import write_experiment, write_run

TABLES = [
    f"{stem}{suffix}"
    for stem in ("returns", "runtime", "aggregate")
    for suffix in (".md", ".csv", ".tex")
]
FIGURES = [
    f"{stem}{suffix}"
    for stem in ("curves", "runtime", "iqm", "profiles")
    for suffix in (".svg", ".png")
]
TASKS = ("mbbl/Pendulum", "mbbl/HalfCheetah", "pomdp/Ant-v5")
JUDGED = "metaworld/drawer-close@size=64"
ROOT = Path(analysis.__file__).parents[1]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A reduced experiment in which everything that can go wrong with a run has gone wrong."""
    folder = write_experiment(tmp_path_factory.mktemp("results") / "quick", reported="last,best")
    for task in TASKS:
        for seed in range(2):
            write_run(folder, task, "sac", seed, [-100.0, 50.0 + seed, 40.0], title="SAC")
        write_run(folder, task, "diffsr", 0, [-100.0, 20.0, 60.0], title="Diff-SR")
    write_run(folder, TASKS[0], "diffsr", 1, [1.0], title="Diff-SR", status="failed", reason="boom")
    write_run(folder, TASKS[1], "diffsr", 1, [], title="Diff-SR", status="diverged", reason="nan")
    torn = write_run(folder, TASKS[0], "qvpo", 0, [1.0, 2.0], title="QVPO", status="running")
    with (torn / "evaluations.csv").open("a") as file:
        file.write("3000,0,")
    (write_run(folder, TASKS[0], "qvpo", 1, [1.0]) / "evaluations.csv").write_text("")
    assert main([str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def report(mixed):
    return mixed / "report"


def svg_text(path: Path) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)<", path.read_text()))


def test_all_files_are_written_and_nothing_else(report):
    names = sorted(file.name for file in report.iterdir())
    assert names == sorted([*TABLES, *FIGURES, "status.md", "README.md", "index.html"])


@pytest.mark.parametrize("name", [*TABLES, "status.md", "README.md", "index.html"])
def test_every_text_says_that_it_is_reduced(report, name):
    assert "reduced protocol" in (report / name).read_text().lower()


@pytest.mark.parametrize("stem", ["curves", "runtime", "iqm", "profiles"])
def test_every_figure_says_that_it_is_reduced(report, stem):
    assert "reduced protocol 'quick': not comparable" in svg_text(report / f"{stem}.svg")


@pytest.mark.parametrize(
    ("stem", "panels"), [("curves", 3), ("runtime", 3), ("iqm", 4), ("profiles", 2)]
)
def test_n_stands_on_every_panel(report, stem, panels):
    axes = ElementTree.parse(report / f"{stem}.svg").findall(".//*[@id]")
    texts = ["".join(axis.itertext()) for axis in axes if axis.get("id", "").startswith("axes_")]
    assert len(texts) == panels
    assert all(re.search(r"n=\d", text) for text in texts)


def test_n_stands_on_every_aggregate_panel(report):
    text = svg_text(report / "iqm.svg")
    for aggregate in AGGREGATES:
        assert f"{aggregate} (n=1–2)" in text
    assert "SAC (n=2)" in text
    assert "Diff-SR (n=1)" in text


def test_figures_explain_themselves(report):
    assert "Band: ± one sample standard deviation" in svg_text(report / "curves.svg")
    scores = svg_text(report / "iqm.svg")
    assert "(value − random) / (reference − random)" in scores
    assert "Left out, no constants to normalise with: pomdp/Ant-v5" in scores
    times = svg_text(report / "runtime.svg")
    for phase in ("env", "act", "update", "eval", "test processor"):
        assert phase in times


def test_curves_name_unfinished_runs(report):
    text = svg_text(report / "curves.svg")
    for note in ("n=2, 1 failed", "1 diverged", "1 running", "n=0, 2 missing"):
        assert note in text


def test_return_table(report):
    text = (report / "returns.md").read_text()
    assert "| mbbl/Pendulum | 60.0 (n=1, 1 failed) |" in text
    assert "— (1 running, 1 without evaluations)" in text
    assert "— (missing)" in text
    assert text.index("last evaluation") < text.index("best evaluation during training")
    frame = pd.read_csv(report / "returns.csv")
    best = frame.query("quantity.str.contains('best') and row == 'mbbl/Pendulum'")
    assert best.set_index("method").at["SAC", "value"] == 50.5


def test_status_page_gives_reasons(report):
    text = (report / "status.md").read_text()
    assert "| mbbl/Pendulum | diffsr | 1 | failed | 1 | boom |" in text
    assert "| mbbl/HalfCheetah | qvpo | 0, 1 | missing | 0 |" in text
    assert "| running | 2 |" in text


def test_index_page_links_exist(report):
    text = (report / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 15
    assert all((report / link).exists() for link in links)
    assert "0.1.0, commit abc" in text
    assert "cpu test processor" in text
    assert "python -m analysis.report results/quick" in text


def test_aggregates_by_hand(mixed):
    scores = normalised_scores(load(mixed))
    assert scores.tasks == ["mbbl/HalfCheetah", "mbbl/Pendulum"]
    constants = normalisation()[["random", "reference"]]
    expected = np.mean(
        [
            (60 - constants.at[task, "random"])
            / (constants.at[task, "reference"] - constants.at[task, "random"])
            for task in scores.tasks
        ]
    )
    assert scores.estimates["diffsr"]["Mean"].point == pytest.approx(expected)
    assert "qvpo" not in scores.estimates
    assert scores.lack("qvpo") == "finished on 0 of 2 tasks"


def test_the_same_data_gives_the_same_bytes(mixed, report):
    before = {file.name: file.read_bytes() for file in report.iterdir()}
    assert main([str(mixed), "--quiet"]) == 0
    assert {file.name: file.read_bytes() for file in report.iterdir()} == before


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A full experiment in which one of two tasks reports success, and what its report prints."""
    folder = write_experiment(
        tmp_path_factory.mktemp("results") / "pixels", reduced=False, reported="last,best"
    )
    counts = [(0, 0), (2, 1), (1, 0)]
    for seed in range(2):
        write_run(folder, TASKS[0], "sac", seed, [1.0, 2.0, 3.0], title="SAC")
        write_run(folder, JUDGED, "sac", seed, [1.0, 2.0, 3.0], title="SAC", success=counts)
        counts = [(1, 1), (2, 2), (2, 1)]
    with redirect_stdout(io.StringIO()) as printed:
        assert main([str(folder)]) == 0
    return folder, printed.getvalue()


def test_success_rates_stand_in_the_report_and_on_the_terminal(judged):
    folder, printed = judged
    report = folder / "report"
    # By hand: in per cent, seed 0 and seed 1.
    rows = {
        "Success rate (any step) in percent, last evaluation": "75.0 ± 35.4 (n=2)",
        "Success rate (last step) in percent, last evaluation": "25.0 ± 35.4 (n=2)",
        "Success rate (any step) in percent, best evaluation during training": (
            "100.0 ± 0.0 (n=2)"
        ),
        "Success rate (last step) in percent, best evaluation during training": (
            "75.0 ± 35.4 (n=2)"
        ),
    }
    [page, index] = [(report / name).read_text() for name in ("success.md", "README.md")]
    titles = re.findall("^### (.*)$", page, re.MULTILINE)
    assert titles == list(rows)
    assert re.findall("^### (.*)$", index, re.MULTILINE)[:2] == titles[:2]
    for text in (page, printed):
        found = re.findall(rf"{JUDGED}[ |]+(\d.*?\))", text)
        assert found[:4] == list(rows.values())
    assert TASKS[0] not in page
    assert TASKS[0] in printed
    assert f"{TASKS[0]}, {JUDGED}" in (report / "aggregate.md").read_text()


def test_the_success_figure(judged):
    report = judged[0] / "report"
    assert (report / "success.png").exists()
    text = svg_text(report / "success.svg")
    for part in ("Success rate (any step)", "success rate in %", "SAC (n=2)", JUDGED):
        assert part in text
    assert " 0 25 50 75 100 success" in text
    assert TASKS[0] not in text
    links = re.findall(r"\]\(([^)]+)\)", (report / "README.md").read_text())
    assert {"success.svg", "success.md", "success.csv", "success.tex"} <= set(links)
    assert all((report / link).exists() for link in links)


def test_the_success_figure_draws_percent(judged, monkeypatch):
    figures = []
    monkeypatch.setattr(curves.style, "save", lambda figure, stem: figures.append(figure))
    curves.draw(load(judged[0]), judged[0] / "success", "success")
    [axis] = figures[0].axes
    thick = max(axis.get_lines(), key=lambda line: line.get_linewidth())
    assert thick.get_ydata().tolist() == [25.0, 100.0, 75.0]
    assert axis.get_ylim() == (-4, 104)
    assert len(axis.get_lines()) == 3


def test_a_full_experiment_is_all_done_and_prints_its_table(tmp_path, capsys):
    folder = write_experiment(tmp_path / "full", name="full", reduced=False, reported="last4")
    for seed in range(2):
        write_run(folder, TASKS[0], "sac", seed, [-150.0, 1.0, 2.0, 3.0, 4.0 + seed], title="SAC")
    assert main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "2.6 ± 0.2 (n=2)" in printed
    assert "All done" in (folder / "report" / "status.md").read_text()
    for file in (folder / "report").glob("*.[mts]*"):
        assert "reduced" not in file.read_text()


def test_an_experiment_without_any_result(tmp_path, capsys):
    folder = write_experiment(tmp_path / "quick")
    write_run(folder, "a/B", "sac", 0, [], status="failed", reason="no such file")
    assert main([str(folder)]) == 0
    captured = capsys.readouterr()
    assert "— (failed)" in captured.out
    assert "reduced protocol" in captured.out.lower()
    assert captured.err == ""
    assert "no evaluations" in svg_text(folder / "report" / "curves.svg")
    assert "— no normalised task has a finished run" in svg_text(folder / "report" / "iqm.svg")


@pytest.mark.parametrize("case", ["absent", "other", "empty", "header"])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, case):
    write_experiment(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    cell = write_run(write_experiment(tmp_path / "header"), "a/B", "sac", 0, [1.0])
    (cell / "evaluations.csv").write_text("a,b\n1,2\n")
    assert main([str(tmp_path / case)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert str(tmp_path / case) in captured.err
    assert re.search("expected|experiments in", captured.err)


def test_the_module_runs_without_torch(tmp_path):
    """The command works from a shell, and neither it nor its imports load torch."""
    code = (
        "import sys, analysis.report; print(sorted({'torch', 'algos', 'envs'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
    command = [sys.executable, "-m", "analysis.report", str(tmp_path / "none")]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1

"""The tables in the algorithm pages: the pages of this project are up to date, and the tool."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
from analysis.data.kept import kept_experiments
from analysis.docs import BEGIN, CLAIMS_BEGIN, CLAIMS_END, END, HEADING, main
from analysis.papers.claim_list import claims
from tests.helpers.experiments import write_experiment, write_run

ROOT = Path(analysis.__file__).parents[1]
TASK = "mbbl/HalfCheetah"


@pytest.fixture
def folders(tmp_path):
    """Two pages and a reduced experiment, and the arguments that name them."""
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "sac.md").write_text("# SAC\n\nText.\n")
    (pages / "mine.md").write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    (tmp_path / "README.md").write_text(f"# All\n\n{CLAIMS_BEGIN}\n{CLAIMS_END}\n\nMore.\n")
    folder = write_experiment(tmp_path / "results" / "quick")
    for seed in range(2):
        write_run(folder, TASK, "sac", seed, [1.0, 2.0, 3.0, 1234.56 + seed], title="SAC")
    return tmp_path


def run(folders, *options: str) -> int:
    pages, results = str(folders / "docs"), str(folders / "results")
    readme = str(folders / "README.md")
    return main(["--pages", pages, "--readme", readme, "--results", results, *options])


def row(folders, task: str = TASK) -> list[str]:
    page = (folders / "docs" / "sac.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith(f"| {task} |")]
    return line.strip("| ").split(" | ")


def test_the_committed_pages_are_up_to_date(capsys):
    pages, results = str(ROOT / "docs" / "algorithms"), str(ROOT / "results")
    readme = str(ROOT / "README.md")
    code = main(["--check", "--pages", pages, "--readme", readme, "--results", results])
    assert capsys.readouterr().err == ""
    assert code == 0


def test_a_page_gets_its_table(folders, capsys):
    assert run(folders) == 0
    text = (folders / "docs" / "sac.md").read_text()
    assert text.startswith(f"# SAC\n\nText.\n\n{HEADING}\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n")
    assert row(folders) == [
        TASK,
        "4,000.7 ± 202.1 (n=4)",
        "MBBL 200K (end, 200,000 steps)",
        "1,235.1 ± 0.7 (n=2)",
        "[quick](../results/quick/report/README.md) (last, 3,000 steps)",
        "not comparable: reduced protocol, 3,000 of 200,000 steps",
        "6,095.5 ± 936.1 (n=4) MBBL 1M",
    ]
    assert capsys.readouterr().out.count("written: ") == 3


def test_a_row_of_success_rates_says_what_they_are(folders):
    task = "metaworld/drawer-close"
    for seed in range(2):
        write_run(folders / "results/quick", task, "sac", seed, [7.0], success=[(2, seed + 1)])
    run(folders)
    assert row(folders, task) == [
        task,
        "1.00 ± 0.00 (n=3)",
        "TD-MPC2 results (point, 2,000,000 steps, rate of success at the last step, "
        "Meta-World v2, states)",
        "0.75 ± 0.35 (n=2)",
        "[quick](../results/quick/report/README.md) (last, 3,000 steps, "
        "rate of success at the last step)",
        "not comparable: Meta-World v2, states, not Meta-World v3, 84×84 pixels without shadows, "
        "reduced protocol, 3,000 of 2,000,000 steps, other statistic",
        "—",
    ]


def test_a_row_without_runs_and_with_wrong_copies(folders):
    run(folders)
    assert row(folders, "mbbl/SlimHumanoid-ET")[1:] == [
        "843.6 ± 313.1 (n=4)",
        "MBBL 200K (end, 200,000 steps)",
        "—",
        "—",
        "not measured",
        "copied wrongly as 834.6 ± 313.1 (n=4) in Diff-SR Table 1, LV-Rep Table 1, "
        "CTRL Table 1, SPEDER MuJoCo",
    ]


def test_the_names_in_the_table_are_explained(folders):
    run(folders)
    text = (folders / "docs" / "sac.md").read_text()
    listed = re.findall(r"^- ([^:]+): ", text, re.MULTILINE)
    assert {"MBBL 200K", "CGPO Table 1", "SPEDER MuJoCo"} <= set(listed)
    assert "MWM scores" not in listed
    assert "best_mean: best evaluation of the mean over seeds" in text


def test_only_the_part_between_the_markers_changes(folders):
    assert run(folders) == 0
    text = (folders / "docs" / "mine.md").read_text()
    assert text.startswith(f"# Mine\n\n{BEGIN}\nNothing is published or measured yet.")
    assert text.endswith(f"{END}\n\nMore.\n")


def test_the_readme_says_how_many_claims_are_open(folders):
    assert run(folders) == 0
    text = (folders / "README.md").read_text()
    count = len(claims())
    start = f"# All\n\n{CLAIMS_BEGIN}\nDecided: 0 of {count} claims. Open: {count}, of which "
    assert text.startswith(start)
    assert text.endswith(f"{CLAIMS_END}\n\nMore.\n")


def test_a_decided_claim_is_a_row_of_the_readme(folders):
    rules = {"reduced": False, "steps": 1_000_000, "name": "full"}
    folder = write_experiment(folders / "results" / "full", **rules)
    for task in ("Ant", "HalfCheetah", "Hopper", "Walker2d"):
        for seed in range(4):
            returns = [1e3, 9e3, 1e3 + seed, 1e3 + seed]
            write_run(folder, f"gym/{task}-v5", "td3", seed, returns, every=250_000)
    assert run(folders) == 0
    text = (folders / "README.md").read_text()
    [line] = [line for line in text.splitlines() if "best-flatters-td3" in line]
    link, verdict, effect, seeds = line.strip("| ").split(" | ")
    assert link.startswith("[best-flatters-td3](docs/claims.md#best-flatters-td3): Taking TD3's")
    assert (verdict, effect, seeds) == ("supported", "8.99× to 8.99× on 4 tasks", "4")
    assert f"Decided: 1 of {len(claims())} claims. " in text


def test_a_second_run_changes_nothing(folders, capsys):
    run(folders)
    before = {page: page.read_bytes() for page in (folders / "docs").iterdir()}
    capsys.readouterr()
    assert run(folders) == 0
    assert capsys.readouterr().out == ""
    assert {page: page.read_bytes() for page in (folders / "docs").iterdir()} == before


def test_check_names_the_stale_page_and_writes_nothing(folders, capsys):
    run(folders)
    assert run(folders, "--check") == 0
    write_run(folders / "results" / "quick", TASK, "sac", 2, [5.0])
    before = (folders / "docs" / "sac.md").read_bytes()
    capsys.readouterr()
    assert run(folders, "--check") == 1
    captured = capsys.readouterr()
    assert captured.err == f"stale: {folders}/docs/sac.md; run python -m analysis.docs\n"
    assert captured.out == ""
    assert (folders / "docs" / "sac.md").read_bytes() == before


def break_input(folders: Path, case: str) -> None:
    page = folders / "docs" / "sac.md"
    if case == "no end":
        page.write_text(f"# SAC\n{BEGIN}\n")
    elif case == "end first":
        page.write_text(f"# SAC\n{END}\n{BEGIN}\n")
    elif case == "stray end":
        page.write_text(f"# SAC\n{END}\n{BEGIN}\n{END}\n")
    elif case == "twice":
        page.write_text(f"# SAC\n{BEGIN}\n{END}\n{BEGIN}\n{END}\n")
    elif case == "no page":
        for file in (folders / "docs").iterdir():
            file.unlink()
    elif case == "no experiment":
        (folders / "results" / "quick" / "experiment.json").unlink()
    else:
        (folders / "results" / "quick" / "experiment.json").write_text("{")


@pytest.mark.parametrize(
    ("case", "place"),
    [
        ("no end", "docs/sac.md"),
        ("end first", "docs/sac.md"),
        ("stray end", "docs/sac.md"),
        ("twice", "docs/sac.md"),
        ("no page", "docs"),
        ("no experiment", "results"),
        ("not JSON", "results/quick/experiment.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folders, capsys, case, place):
    break_input(folders, case)
    before = (folders / "docs" / "mine.md").read_text() if case != "no page" else ""
    assert run(folders) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert str(folders / place) in captured.err
    assert before == "" or (folders / "docs" / "mine.md").read_text() == before


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_scratch_experiments_are_left_out(folders):
    results = folders / "results"
    write_run(write_experiment(results / "scratch"), TASK, "sac", 0, [1.0])
    assert [x.path.name for x in kept_experiments(results)] == ["quick", "scratch"]
    git(folders, "init")
    git(folders, "add", "results/quick")
    assert [x.path.name for x in kept_experiments(results)] == ["quick"]


def test_the_module_runs_without_torch():
    code = "import sys, analysis.docs; print(sorted({'torch', 'algos', 'envs'} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"

"""The papers' tables and figures: what they need, what they show, and the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import algos
import analysis
import envs
from analysis import figures
from analysis.data.load import load
from analysis.data.provenance import shell
from analysis.data.published import numbers
from analysis.drawing import style
from analysis.papers import figure_bandit, figure_hours, figure_table
from analysis.papers.coverage import Coverage, cover
from analysis.papers.targets import TARGETS
from runners import sweep
from runners.cells.grid import make_cells, parse_seeds, split
from runners.cells.protocols import PROTOCOLS
from tests.helpers.experiments import write_experiment, write_run

ROOT = Path(analysis.__file__).parents[1]
TABLE, CURVES, HOURS = (TARGETS[f"diffsr-{name}"] for name in ("table1", "curves", "runtime"))
TOY = TARGETS["qvpo-toy"]
PLAIN, ENTROPY = TOY.labels
PEAKS = [[-0.5, -0.5, 0.5, 0.2], [0.5, 0.5, 1.0, 0.2]]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_is_something_that_can_be_run(target):
    rules = PROTOCOLS[target.protocol.name]
    assert target.protocol == rules
    assert target.seeds <= rules.seeds
    assert set(target.tasks) <= set(rules.tasks)
    assert set(target.statistics) <= set(rules.reported)
    for command in Coverage.commands(nothing(target)):
        assert set(cells_of(command)) <= set(target.cells())
    assert {label.partition("@")[0] for label in target.labels} <= set(algos.list_algos())
    judged = {envs.task(task).reports_success for task in target.tasks}
    assert judged == {target.measure != "return"}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_tells_its_methods_apart(target):
    """In colour, and in grey by marker or by dashes."""
    looks = [style.method_style(label) for label in target.labels]
    for attribute in ("color", "linestyle", "marker"):
        assert len({getattr(look, attribute) for look in looks}) == len(looks)


def test_the_ablations_have_the_papers_settings():
    """Figure 4: 20 and 100 steps, with and without; figure 5: pairs of K_b and K_t."""
    wanted = {
        "qvpo-entropy-steps": {(20, 10), (20, 0), (100, 10), (100, 0)},
        "qvpo-kb-kt": {(1, 1), (4, 1), (4, 2), (4, 4), (20, 2)},
    }
    options = {
        "qvpo-entropy-steps": ("diffusion_steps", "entropy_samples"),
        "qvpo-kb-kt": ("behavior_samples", "target_samples"),
    }
    for name, pairs in wanted.items():
        cells = [cell for c in nothing(TARGETS[name]).commands() for cell in sweep_cells(c)]
        first, second = options[name]
        assert {(cell.config[first], cell.config[second]) for cell in cells} == pairs


def test_the_papers_tables_are_complete():
    """Table 1 of Diff-SR has 12 methods on 10 tasks, of QVPO 7 on 5, Table 3 has 8 on 6."""
    for name, methods, tasks in (("diffsr-table1", 12, 10), ("qvpo-table1", 7, 5)):
        known = figure_table.known(nothing(TARGETS[name]))
        assert len(known) == methods * tasks
    assert len(figure_table.known(nothing(TARGETS["diffsr-table3"]))) == 8 * 6
    assert sum(x.miscopied for x in figure_table.known(nothing(TABLE))) == 13


def nothing(target):
    return cover(target, [], Path("results/x"))


def cells_of(command):
    """Task, label and seed of the cells that a sweep's arguments stand for."""
    return [(cell.task, cell.label, cell.seed) for cell in sweep_cells(command)]


def sweep_cells(command):
    """The cells that a sweep's arguments stand for, as the sweep itself reads them."""
    assert command[:2] == ["-m", "runners.sweep"]
    options = sweep.parser().parse_args(command[2:])
    rules = PROTOCOLS[options.protocol].with_steps(options.steps)
    entries, tasks = split(options.algos), split(options.tasks)
    assert rules.steps == PROTOCOLS[options.protocol].steps
    return make_cells(entries, tasks, parse_seeds(options.seeds), rules, options.set)


def full(folder, target, **changes):
    rules = {"name": target.protocol.name, "steps": target.steps, "reduced": False, "note": ""}
    return write_experiment(folder, **rules | {"reported": ",".join(target.statistics)} | changes)


@pytest.fixture
def some(tmp_path):
    """Of Table 1: full runs of SAC, some of them twice, and shorter ones of Diff-SR and of SAC."""
    folder = full(tmp_path / "mbbl", TABLE)
    task = TABLE.tasks[0]
    for seed, end in enumerate([3900.0, 4100.0, 4300.0]):
        write_run(folder, task, "sac", seed, [0.0, end, end, end, end], every=40_000, title="SAC")
    write_run(folder, task, "sac", 3, [1.0], status="failed", reason="boom")
    short = full(tmp_path / "short", TABLE, steps=100_000, reduced=True)
    for seed in range(5):
        returns = [5.0, 1.0, 2.0, 3.0, 4.0 + seed]
        write_run(short, task, "diffsr", seed, returns, every=20_000, title="Diff-SR")
        write_run(short, task, "sac", seed, [7.0] * 4)
    again = full(tmp_path / "again", TABLE)
    write_run(again, task, "sac", 1, [9999.0] * 5, title="SAC")
    write_run(again, task, "sac", 2, [1.0], status="failed", reason="boom")
    other = full(tmp_path / "other", TABLE, name="quick", steps=TABLE.steps)
    write_run(other, task, "lvrep", 0, [1.0] * 5)
    return [load(path) for path in (other, short, folder, again)]


def test_the_best_run_of_each_cell_is_taken(some, tmp_path):
    coverage = cover(TABLE, some, tmp_path / "mbbl")
    runs = coverage.experiment.runs
    assert len(runs) == len(list(TABLE.cells())) == 200
    found = runs[runs["status"] != "missing"].groupby("label")["status"].agg(list)
    assert found["sac"] == ["done"] * 3 + ["failed"]
    assert found["diffsr"] == ["shorter"] * 4
    assert set(found.index) == {"sac", "diffsr"}
    assert coverage.shorter == {(TABLE.tasks[0], "diffsr"): some[1]}
    text = "3 of 200 cells have a finished run; 1 failed, 192 missing, 4 shorter"
    assert coverage.status == coverage.notice == text
    # Only the lines of the runs that were taken, and no column more.
    assert coverage.experiment.evaluations.groupby("label")["seed"].nunique().to_dict() == {
        "diffsr": 4,
        "sac": 4,
    }
    assert coverage.experiment.evaluations.query("label == 'sac'")["return"].max() == 4301.0


def test_commands_run_exactly_the_missing_cells(some, tmp_path):
    coverage = cover(TABLE, some, tmp_path / "mbbl")
    commands = coverage.commands()
    asked = [cell for command in commands for cell in cells_of(command)]
    assert sorted(asked) == sorted(coverage.missing)
    assert len(asked) == len(set(asked)) == 197
    assert len(commands) == 3  # the holes are three grids
    assert all(
        command[command.index("--experiment") + 1] == str(tmp_path / "mbbl") for command in commands
    )
    lone = next(command for command in commands if "sac" in command)
    assert shell(lone).startswith("python -m runners.sweep --protocol diffsr --steps 200000 ")
    assert lone[lone.index("--seeds") + 1] == "3,"


def test_variants_are_run_by_their_options():
    commands = nothing(TARGETS["qvpo-entropy-steps"]).commands()
    asked = [cell for command in commands for cell in cells_of(command)]
    assert sorted(asked) == sorted(TARGETS["qvpo-entropy-steps"].cells())
    assert commands[-1][-4:] == [
        *("--set", "qvpo.diffusion_steps=100"),
        *("--set", "qvpo.entropy_samples=0"),
    ]


def test_the_table_sets_measured_below_published(some, tmp_path):
    first, second = figure_table.tables(cover(TABLE, some, tmp_path))
    text = first.markdown()
    rows = dict(re.findall(r"^\| ([^|]*) \| ([^|]*) \|", text, re.MULTILINE))
    assert rows["SAC (3-layer), published"] == "4,000.7 ± 202.1 (n=4)"
    # By hand: mean and std of 3900, 4100 and 4300, inside 4000.7 ± 202.1.
    assert rows["SAC, measured"] == "4,100.0 ± 200.0 (n=3, inside, 1 failed)"
    assert rows["Diff-SR, measured"].startswith("2.9 ± 0.3 (n=4, not comparable [")
    assert "reduced protocol, 100,000 of 200,000 steps." in text
    assert rows["LV-Rep, measured"] == "— (missing)"
    assert list(rows).index("Diff-SR, measured") == list(rows).index("Diff-SR, published") + 1
    assert "3 of 200 cells have a finished run" in text
    assert "read from: table; environment: MBBL; steps: 200,000; statistic: " in text
    # A wrong copy stands as it was printed, with its original.
    cell = second.cells["ME-TRPO, published", "mbbl/Walker2D-ET"]
    assert cell.text(1).startswith("-1,609.3 ± 657.5 (n=4, copied wrongly, original -9.5 ± 4.6 [")
    assert "copied from MBBL 200K: ME-TRPO; the printed value is" in second.markdown()
    assert r"\begin{tabular}{lrrrrr}" in second.latex()


def test_a_verdict_is_about_the_original(tmp_path):
    """MBBL has 843.6 ± 313.1 for SAC on SlimHumanoid-ET, where Diff-SR's table says 834.6."""
    folder, task = full(tmp_path / "mbbl", TABLE), "mbbl/SlimHumanoid-ET"
    for seed in range(2):
        write_run(folder, task, "sac", seed, [843.6 + 313.0] * 4, every=50_000)
    _, table = figure_table.tables(cover(TABLE, [load(folder)], folder))
    assert table.cells["SAC, measured", task].marks[0] == "inside"


def test_best_of_training_is_compared_with_best(tmp_path):
    target, task = TARGETS["qvpo-table1"], "gym/HalfCheetah-v5"
    folder = full(tmp_path / "gym", target)
    for seed in range(2):
        write_run(folder, task, "ppo@spo", seed, [4000.0, 9000.0, 1000.0], title="PPO")
    [table] = figure_table.tables(cover(target, [load(folder)], folder))
    best, last = (table.cells[f"PPO (spo), measured ({name})", task] for name in ("best", "last"))
    assert (best.value, last.value) == (9000.0, 1000.0)
    reasons = {line[1]: line for line in table.notes if line.startswith("[")}
    letters = [re.search(r"\[(.)\]", cell.marks[0])[1] for cell in (best, last)]
    assert "MuJoCo v3, not MuJoCo v5" in reasons[letters[0]]
    assert "other statistic" not in reasons[letters[0]]
    assert "other statistic" in reasons[letters[1]]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written, by the name of their files."""
    kept = {}
    monkeypatch.setattr(
        style, "save", lambda figure, stem, suffixes: kept.update({stem.name: figure})
    )
    return kept


def texts_of(figure):
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def test_curves_show_holes_and_published_numbers(some, tmp_path, drawn):
    figures.build(cover(CURVES, some, tmp_path), tmp_path / "curves")
    figure = drawn["curves"]
    assert "3 of 80 cells have a finished run" in texts_of(figure)
    assert "100,000 steps, experiment diffsr" in texts_of(figure)
    legends = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "SAC (n=4, 1 failed)" in legends
    assert "Diff-SR (n=4, 4 shorter)" in legends
    assert "LV-Rep (n=0, 4 missing)" in legends
    hollow = {
        (line.get_color(), tuple(map(float, (*line.get_xdata(), *line.get_ydata()))))
        for line in figure.axes[0].get_lines()
        if line.get_markerfacecolor() == "white"
    }
    assert (style.method_style("diffsr").color, (200_000.0, 7223.53)) in hollow
    assert len(hollow) == 5


def test_a_complete_figure_has_no_notice(tmp_path, drawn):
    target = TARGETS["qvpo-kb-kt"]
    folder = full(tmp_path / "gym", target)
    for task, label, seed in target.cells():
        write_run(folder, task, label, seed, [1.0, 2.0 + seed])
    coverage = cover(target, [load(folder)], folder)
    figures.build(coverage, tmp_path / "complete")
    assert coverage.commands() == []
    assert coverage.notice == ""
    assert "cells" not in texts_of(drawn["complete"])
    assert "4.0 ± 1.6 (n=5)" in (tmp_path / "complete.md").read_text()


def test_success_is_drawn_in_percent_with_the_digitised_points(tmp_path, drawn):
    target, task = TARGETS["diffsr-metaworld"], "metaworld/drawer-close"
    folder = full(tmp_path / "pixels", target)
    for seed in range(2):
        write_run(folder, task, "drqv2", seed, [1.0, 2.0], success=[(0, 0), (1, 1)])
    figures.build(cover(target, [load(folder)], folder), tmp_path / "success")
    axis = next(axis for axis in drawn["success"].axes if axis.get_title() == task)
    measured = [line for line in axis.get_lines() if len(line.get_xdata()) == 2]
    thick = max(measured, key=lambda line: line.get_linewidth())
    assert thick.get_ydata().tolist() == [0.0, 50.0]
    points = [line for line in axis.get_lines() if line.get_markerfacecolor() == "white"]
    known = [x for x in numbers() if (x.task, x.source) == (task, "Diff-SR Meta-World")]
    shown = sorted(float(line.get_ydata()[0]) for line in points)
    assert shown == sorted(100 * x.mean for x in known if x.mean is not None)
    assert "50.0 ± 0.0 (n=2, 3 missing)" in (tmp_path / "success.md").read_text()


def test_hours_by_hand(tmp_path, drawn):
    folder, task = full(tmp_path / "mbbl", HOURS), HOURS.tasks[0]
    seconds = {"env": 9.0, "act": 9.0, "update": 9.0, "eval": 9.0}  # 36 s per 1000 steps
    for seed in range(2):
        facts = {"every": 50_000, "seconds": seconds, "title": "Diff-SR"}
        write_run(folder, task, "diffsr", seed, [1.0] * 4, **facts)
    short = full(tmp_path / "short", HOURS, steps=100_000, reduced=True)
    write_run(short, task, "lvrep", 0, [1.0] * 4, **facts | {"every": 25_000, "title": "LV-Rep"})
    coverage = cover(HOURS, [load(folder), load(short)], folder)
    [table] = figure_hours.tables(coverage)
    assert table.cells[task, "Diff-SR, measured"].text(2) == "2.00 ± 0.00 (n=2, 2 missing)"
    assert table.cells[task, "LV-Rep, measured"].text(2) == "1.00 (n=1, 100,000 steps, 3 missing)"
    assert table.cells[task, "Diff-SR, published"].value == 1.45
    assert table.cells["mbbl/Humanoid-ET", "PolyGRAD, published"].value == 13.5
    figure_hours.draw(coverage, tmp_path / "hours")
    bars = drawn["hours"].axes[0].patches
    assert [(bar.get_width(), bool(bar.get_hatch()), bar.get_alpha()) for bar in bars] == [
        (1.45, True, None),
        (2.0, False, 1.0),
        (1.0, False, figure_hours.PALE),
        (8.45, True, None),
    ]
    assert "Quadro RTX 6000" in texts_of(drawn["hours"])
    assert "test processor" in texts_of(drawn["hours"])


def test_generation_collects_images(tmp_path, drawn):
    target = TARGETS["diffsr-generation"]
    folder = full(tmp_path / "pixels", target)
    runs = [
        write_run(folder, task, "diffsr", 0, [1.0], success=[(0, 0)]) for task in target.tasks[:2]
    ]
    Image.new("RGB", (40, 10), (255, 0, 0)).save(runs[0] / "generation.png")
    coverage = cover(target, [load(folder)], folder)
    assert coverage.tool_commands() == [["-m", "runners.generate", str(runs[1])]]
    figures.build(coverage, tmp_path / "sheet")
    first, second, third = drawn["sheet"].axes[:3]
    assert first.get_images()[0].get_array().shape[:2] == (10, 40)
    assert f"python -m runners.generate {runs[1]}" in second.texts[0].get_text()
    assert third.texts[0].get_text() == "— (missing)"
    (runs[0] / "generation.png").write_bytes(b"not a picture")
    with pytest.raises(figures.ExperimentError, match=r"generation\.png is not a picture"):
        figures.build(coverage, tmp_path / "sheet")


@pytest.fixture
def bandit(tmp_path):
    """Two runs of the bandit with actions: one on the high peak, one here and there."""
    folder = full(tmp_path / "toy", TOY, reduced=True)
    spread = [(0.5, 0.5), (0.5, 0.6), (-0.5, -0.5), (0.9, -0.9)]
    for label, rows in ((PLAIN, [(0.5, 0.5)] * 4), (ENTROPY, spread)):
        run = write_run(folder, TOY.tasks[0], label, 0, [1.0])
        record = json.loads((run / "run.json").read_text()) | {"task_facts": {"peaks": PEAKS}}
        (run / "run.json").write_text(json.dumps(record))
        lines = ["env_step,sample,action_0,action_1"]
        for step in (500, 1000):
            # Before the end all lie elsewhere.
            lines += [
                f"{step},{i},{x if step == 1000 else 0.9},{y}" for i, (x, y) in enumerate(rows)
            ]
        (run / "actions.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_bandit_by_hand(bandit, tmp_path, drawn):
    coverage = cover(TOY, [load(bandit)], bandit)
    [table] = figure_bandit.tables(coverage)
    names = [coverage.experiment.names[label] for label in TOY.labels]
    shares = {row: [table.cells[row, name].value for name in names] for row in table.rows}
    assert shares == {
        "peak of height 0.5": [0.0, 25.0],
        "peak of height 1": [100.0, 50.0],
        "share of the plane": [0.25, 1.0],
    }
    figures.build(coverage, tmp_path / "toy")
    figure = drawn["toy"]
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["500 steps (n=1)", "1,000 steps (n=1)"] * 2
    dots = figure.axes[3].get_lines()[-1]
    assert sorted(set(dots.get_xdata())) == [-0.5, 0.5, 0.9]
    assert "2 of 6 cells have a finished run" in texts_of(figure)


def test_the_landscape_is_the_tasks_own():
    from envs.toy import PEAKS as OWN
    from envs.toy import height

    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    wanted = [height(point) for point in points]
    assert figure_bandit.landscape(OWN, *points.T) == pytest.approx(wanted)


def test_a_bandit_without_actions_is_drawn(tmp_path, drawn):
    figures.build(nothing(TOY), tmp_path / "toy")
    assert all(axis.texts[0].get_text() == "no actions" for axis in drawn["toy"].axes)
    assert (
        "— (missing)" in (tmp_path / "toy.md").read_text()
        or "3 missing" in (tmp_path / "toy.md").read_text()
    )


def run_main(capsys, *arguments):
    code = figures.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_every_file_is_written_and_the_same_twice(bandit, tmp_path, capsys):
    results = []
    for name in ("first", "second"):
        code, printed, error = run_main(
            capsys, "qvpo-toy", "--experiment", bandit, "--out", tmp_path / name
        )
        assert (code, error) == (0, "")
        results.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert sorted(results[0]) == [
        f"qvpo-toy.{kind}" for kind in ("csv", "md", "pdf", "png", "svg", "tex")
    ]
    assert results[0] == results[1]
    assert "needs 2 methods × 1 task × 3 seeds = 6 cells (protocol toy, 1,000 steps)" in printed
    assert printed.count("    python -m runners.sweep --protocol toy") == 2
    assert f"--experiment {bandit}" in printed
    frame = pd.read_csv(tmp_path / "first" / "qvpo-toy.csv")
    assert set(frame["row"]) == {"peak of height 0.5", "peak of height 1", "share of the plane"}


def test_the_list_names_every_target(some, capsys):
    paths = [part for experiment in some for part in ("--experiment", experiment.path)]
    code, printed, _ = run_main(capsys, "--list", *paths)
    assert code == 0
    assert re.findall("^([a-z0-9-]+): ", printed, re.MULTILINE) == list(TARGETS)
    assert "3 of 200 cells have a finished run; 1 failed, 192 missing, 4 shorter" in printed


def test_other_protocols_are_named_as_not_used(some, tmp_path, capsys):
    _, printed, _ = run_main(
        capsys, "diffsr-table1", "--experiment", some[0].path, "--out", tmp_path
    )
    assert "not used: quick (protocol quick); expected protocol diffsr" in printed


def test_run_missing_runs_the_commands_and_draws_the_rest(tmp_path, capsys, monkeypatch, drawn):
    """The sweeps are played by a function that writes the runs they would write."""
    folder, ran = tmp_path / "toy", []

    def play(command, check):
        assert command[0] == sys.executable
        ran.append(command[1:])
        if command[2] == "runners.probe":
            (Path(command[3]) / "actions.csv").write_text("env_step,sample,action_0,action_1\n")
            return subprocess.CompletedProcess(command, 0)
        if not folder.exists():
            full(folder, TOY, reduced=True)
        for task, label, seed in cells_of(command[1:]):
            run = write_run(folder, task, label, seed, [1.0])
            record = json.loads((run / "run.json").read_text()) | {"task_facts": {"peaks": PEAKS}}
            (run / "run.json").write_text(json.dumps(record))
        return subprocess.CompletedProcess(command, 1)  # a cell failed

    monkeypatch.setattr(figures.subprocess, "run", play)
    arguments = ["qvpo-toy", "--experiment", folder, "--out", tmp_path, "--run-missing"]
    code, printed, error = run_main(capsys, *arguments)
    assert (code, error) == (1, "")
    assert [command[1] for command in ran] == ["runners.sweep"] * 2 + ["runners.probe"] * 6
    assert "6 of 6 cells have a finished run" in printed
    assert "to run the rest" not in printed
    ran.clear()
    assert run_main(capsys, *arguments)[0] == 0
    assert ran == []
    monkeypatch.setattr(
        figures.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 2)
    )
    code, _, error = run_main(
        capsys, "qvpo-toy", "--experiment", tmp_path / "b", "--out", tmp_path, "--run-missing"
    )
    assert code == 2
    assert error.startswith("error: refused: python -m runners.sweep --protocol toy")


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (["qvpo-tabel1"], "unknown figure 'qvpo-tabel1': valid figures are diffsr-table1, "),
        ([], "no figure named; valid figures are diffsr-table1, "),
        (["qvpo-toy", "--experiment", "none"], "no experiment folder '"),
        (["qvpo-toy", "--experiment", "empty"], "holds no run; expected folders"),
        (["qvpo-toy", "--experiment", "toy"], "has the header 'a,b'; expected 'env_step,sample"),
    ],
)
def test_bad_input_is_one_line(bandit, tmp_path, capsys, case, wanted):
    write_experiment(tmp_path / "empty")
    (bandit / TOY.tasks[0] / PLAIN / "seed-0" / "actions.csv").write_text("a,b\n1,2\n")
    code, _, error = run_main(capsys, *case, "--results", tmp_path, "--out", tmp_path)
    assert code == 2
    assert wanted in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_half_written_run_is_a_hole(bandit, tmp_path, drawn):
    (bandit / TOY.tasks[0] / PLAIN / "seed-0" / "run.json").write_text('{"status": "do')
    coverage = cover(TOY, [load(bandit)], bandit)
    figures.build(coverage, tmp_path / "toy")
    assert coverage.status.endswith("1 of 6 cells have a finished run; 4 missing, 1 unreadable")


def test_the_module_loads_no_torch():
    code = "import sys, analysis.figures; print(sorted({'torch', 'mujoco'} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"

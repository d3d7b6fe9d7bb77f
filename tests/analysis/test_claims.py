"""The claims of the papers: the data, the verdicts on made-up runs, and the command."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

import algos
import analysis
import envs
from analysis.claims import main
from analysis.data.load import load
from analysis.papers.claim import SECONDS, Claim, ClaimTest, Side
from analysis.papers.claim_list import choose, claims
from analysis.papers.claim_tests import OPEN, REFUTED, SUPPORTED, decide
from analysis.papers.claim_texts import describe_test, summary, sweep_commands
from analysis.statistics.effects import seeds_needed
from runners.cells.protocols import DIFFSR, PROTOCOLS
from tests.helpers.experiments import write_experiment, write_run

ROOT = Path(analysis.__file__).parents[1]
TASK = "mbbl/Ant-ET"
FULL = {"name": "diffsr", "reduced": False, "steps": 4000, "reported": "last4,last"}
HIGH, LOW = [210.0, 190.0, 205.0, 201.0], [110.0, 95.0, 103.0, 99.0]

describe = describe_test
del describe_test  # pytest would take it for a test


def make(*tests: ClaimTest, needed: int | None = None) -> Claim:
    return Claim(
        name="made-up",
        text="A returns more than B.",
        source="nobody",
        protocol=DIFFSR.with_steps(4000),
        tests=tests,
        needed=len(tests) if needed is None else needed,
    )


MORE = ClaimTest(task=TASK, side=Side("diffsr", "last"), other=Side("lvrep", "last"))
ALIKE = replace(MORE, effect="ratio", above=0.9, below=1.1)


def write(folder: Path, runs: dict[str, list[float]], task: str = TASK, **changes):
    """Write runs of four evaluations, given their last result for each seed of each label."""
    if not folder.exists():
        write_experiment(folder, **FULL | changes)
    for label, values in runs.items():
        for seed, value in enumerate(values):
            write_run(folder, task, label, seed, [0.0, 0.0, 0.0, value])
    return folder


def outcome(test: ClaimTest, *folders: Path):
    [finding] = decide([make(test)], [load(folder) for folder in folders])
    return finding.outcomes[0]


@pytest.mark.parametrize(
    ("runs", "word"),
    [
        ({"diffsr": HIGH, "lvrep": LOW}, SUPPORTED),
        ({"diffsr": LOW, "lvrep": HIGH}, REFUTED),
        ({"diffsr": [210.0, 90.0, 140.0, 101.0], "lvrep": LOW}, OPEN),
    ],
)
def test_a_difference_is_decided_by_its_interval(tmp_path, runs, word):
    found = outcome(MORE, write(tmp_path / "full", runs))
    x, y = (np.array(runs[label]) for label in ("diffsr", "lvrep"))
    interval = scipy_stats.ttest_rel(x, y).confidence_interval()
    assert found.word == word
    assert found.estimate.point == pytest.approx(x.mean() - y.mean())
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(interval))


def test_other_seeds_are_compared_without_pairs(tmp_path):
    folder = write(tmp_path / "full", {"diffsr": HIGH, "lvrep": LOW[:3]})
    found = outcome(MORE, folder)
    interval = scipy_stats.ttest_ind(HIGH, LOW[:3], equal_var=False).confidence_interval()
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(interval))


def test_an_open_test_says_how_many_seeds_would_decide(tmp_path):
    noisy = [150.0, 90.0, 120.0, 101.0]
    found = outcome(MORE, write(tmp_path / "full", {"diffsr": noisy, "lvrep": LOW}))
    more = seeds_needed(np.array(noisy), np.array(LOW), paired=True)
    assert more > 0
    assert (found.more, found.reasons) == (more, (f"{more} more seeds would decide",))
    assert found.missing == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reduced": True}, "reduced protocol (experiment diffsr)"),
        ({"steps": 3000}, "3,000 of 4,000 steps"),
    ],
)
def test_a_reduced_protocol_or_another_budget_never_decides(tmp_path, changes, reason):
    found = outcome(MORE, write(tmp_path / "x", {"diffsr": HIGH, "lvrep": LOW}, **changes))
    assert (found.word, found.reasons) == (OPEN, (reason,))
    assert found.estimate.point == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    assert found.missing == ("diffsr", "lvrep")


def test_two_seeds_decide_nothing(tmp_path):
    found = outcome(MORE, write(tmp_path / "full", {"diffsr": [200.0, 200.1], "lvrep": [1.0, 1.1]}))
    assert found.word == OPEN
    assert found.reasons == ("2 of at least 3 seeds", "1 more seed would decide")
    assert found.missing == ("diffsr", "lvrep")


@pytest.mark.parametrize("label", ["lvrep@released", "lvrep@imported", "sac"])
def test_only_the_method_of_the_claim_counts(tmp_path, label):
    found = outcome(MORE, write(tmp_path / "full", {"diffsr": HIGH, label: LOW}))
    assert (found.word, found.missing, found.estimate) == (OPEN, ("lvrep",), None)


def test_failed_runs_do_not_count(tmp_path):
    folder = write(tmp_path / "full", {"diffsr": HIGH, "lvrep": LOW})
    for seed in range(4):
        file = folder / TASK / "lvrep" / f"seed-{seed}" / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "failed"}))
    assert outcome(MORE, folder).missing == ("lvrep",)


def test_options_may_stand_in_any_order(tmp_path):
    test = replace(MORE, other=Side("qvpo@entropy_samples=0,diffusion_steps=100", "last"))
    label = "qvpo@diffusion_steps=100,entropy_samples=0"
    assert outcome(test, write(tmp_path / "full", {"diffsr": HIGH, label: LOW})).word == SUPPORTED


def test_two_experiments_with_the_same_rules_are_compared(tmp_path):
    one, two = write(tmp_path / "a", {"diffsr": HIGH}), write(tmp_path / "b", {"lvrep": LOW})
    found = outcome(MORE, one, two)
    interval = scipy_stats.ttest_ind(HIGH, LOW, equal_var=False).confidence_interval()
    assert found.word == SUPPORTED
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(interval))
    other = write(tmp_path / "c", {"lvrep": LOW}, eval_episodes=7)
    assert outcome(MORE, one, other).reasons == ("no runs to compare",)


def test_what_decides_comes_before_what_does_not(tmp_path):
    reduced = write(tmp_path / "a", {"diffsr": LOW * 2, "lvrep": HIGH * 2}, reduced=True)
    full = write(tmp_path / "b", {"diffsr": HIGH, "lvrep": LOW})
    assert outcome(MORE, reduced, full).word == SUPPORTED


@pytest.mark.parametrize("native", [True, False])
def test_precisions_are_compared_only_where_there_are_two(tmp_path, native):
    test = replace(ALIKE, side=Side("sac", "last"), other=Side("sac@precision=float32", "last"))
    values = [198.0, 202.0, 201.0, 199.0]
    folder = write(tmp_path / "full", {"sac": values, "sac@precision=float32": values})
    if native:  # else the default's bfloat16 became float32 too
        for file in folder.glob("mbbl/*/sac/*/run.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"precision": "bfloat16"}))
    found = outcome(test, folder)
    reasons = () if native else ("runs of both in one precision: a machine without bfloat16",)
    assert (found.word, found.reasons) == (SUPPORTED if native else OPEN, reasons)


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, SUPPORTED), (1.5, REFUTED), (0.6, REFUTED), (1.1, OPEN)]
)
def test_alike_means_wholly_inside_the_range(tmp_path, factor, word):
    values = [factor * value for value in (198.0, 202.0, 201.0, 199.0)]
    runs = {"diffsr": values, "lvrep": [201.0, 199.0, 198.0, 202.0]}
    assert outcome(ALIKE, write(tmp_path / "full", runs)).word == word


def test_the_seeds_that_a_ratio_needs_are_those_of_its_logarithms(tmp_path):
    runs = {"diffsr": [214.0, 212.0, 219.0, 215.0], "lvrep": [201.0, 199.0, 198.0, 204.0]}
    found = outcome(ALIKE, write(tmp_path / "full", runs))
    x, y = (np.log(runs[label]) for label in ("diffsr", "lvrep"))
    ends = [seeds_needed(x, y, threshold=np.log(end), paired=True) for end in (0.9, 1.1)]
    assert found.word == OPEN
    assert found.more == max(ends) > min(ends)


def test_a_ratio_needs_positive_values(tmp_path):
    found = outcome(ALIKE, write(tmp_path / "full", {"diffsr": HIGH, "lvrep": [-1.0, *LOW[1:]]}))
    assert (found.word, found.reasons) == (OPEN, ("a value is not positive, so no ratio",))


FASTER = ClaimTest(
    task=TASK,
    side=Side("polygrad", SECONDS),
    other=Side("diffsr", SECONDS),
    effect="ratio",
    above=3.0,
)


def timed(folder: Path, times: float) -> Path:
    """Write three runs of two methods, the second so many times slower."""
    write_experiment(folder, **FULL)
    for label, seconds in (("diffsr", 2.0), ("polygrad", 2.0 * times)):
        for seed in range(3):
            phases = dict.fromkeys(("env", "act", "eval"), 0.0) | {"update": seconds + 0.01 * seed}
            write_run(folder, TASK, label, seed, [1.0] * 4, seconds=phases)
    return folder


@pytest.mark.parametrize(("times", "word"), [(4.0, SUPPORTED), (2.0, REFUTED)])
def test_run_times_are_compared_as_a_ratio(tmp_path, times, word):
    found = outcome(FASTER, timed(tmp_path / "full", times))
    assert found.word == word
    assert found.estimate.point == pytest.approx(times, rel=0.01)


def test_run_times_of_two_machines_decide_nothing(tmp_path):
    folder = timed(tmp_path / "full", 4.0)
    file = folder / TASK / "diffsr" / "seed-0" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "cuda"}))
    assert outcome(FASTER, folder).reasons == ("run times of several machines or settings",)


@pytest.mark.parametrize(
    ("successes", "word"),
    [([(2, 2)] * 3, SUPPORTED), ([(0, 0)] * 3, REFUTED), ([(2, 2), (1, 1), (2, 2)], OPEN)],
)
def test_a_success_rate_is_compared_with_a_number(tmp_path, successes, word):
    task = "metaworld/sweep"
    test = ClaimTest(
        task=task, side=Side("diffsr", "last"), effect="level", above=0.9, measure="success"
    )
    folder = write_experiment(tmp_path / "full", **FULL)
    for seed, count in enumerate(successes):
        write_run(folder, task, "diffsr", seed, [1.0] * 4, success=[count] * 4)
    found = outcome(test, folder)
    assert found.word == word
    assert found.estimate.point == pytest.approx(
        np.mean([any_step / 2 for any_step, _ in successes])
    )


@pytest.mark.parametrize(
    ("holding", "needed", "word"),
    [(3, 3, SUPPORTED), (2, 3, REFUTED), (2, 2, SUPPORTED), (1, 2, REFUTED)],
)
def test_a_claim_needs_so_many_of_its_tests(tmp_path, holding, needed, word):
    tests = []
    for number, task in enumerate(("mbbl/Ant", "mbbl/Hopper", "mbbl/Swimmer")):
        good, bad = (HIGH, LOW) if number < holding else (LOW, HIGH)
        write(tmp_path / "full", {"diffsr": good, "lvrep": bad}, task)
        tests.append(replace(MORE, task=task))
    [finding] = decide([make(*tests, needed=needed)], [load(tmp_path / "full")])
    assert finding.word == word
    without = replace(MORE, task="mbbl/Nowhere")
    [finding] = decide([make(*tests, without, needed=4)], [load(tmp_path / "full")])
    assert finding.word == (OPEN if holding == 3 else REFUTED)


def test_a_claim_names_what_it_lacks_and_the_command(tmp_path):
    folder = write(tmp_path / "full", {"diffsr": HIGH})
    [finding] = decide([make(MORE, replace(MORE, task="mbbl/Ant"))], [load(folder)])
    assert summary(finding) == (
        "0 of 2 hold, 0 fail; cells without enough runs: lvrep on mbbl/Ant-ET, mbbl/Ant; "
        "diffsr on mbbl/Ant"
    )
    assert sweep_commands(finding) == [
        "python -m runners.sweep --protocol diffsr --steps 4000 --algos lvrep "
        "--tasks mbbl/Ant-ET,mbbl/Ant --seeds 0,1,2,3 --experiment claims",
        "python -m runners.sweep --protocol diffsr --steps 4000 --algos diffsr "
        "--tasks mbbl/Ant --seeds 0,1,2,3 --experiment claims",
    ]


def test_a_row_shows_effect_interval_seeds_and_published(tmp_path):
    [claim] = choose(["diffsr-over-lvrep"])
    test = replace(claim.tests[0], side=replace(claim.tests[0].side, value="last"))
    test = replace(test, other=replace(test.other, value="last"))
    folder = write(tmp_path / "full", {"diffsr": HIGH, "lvrep": LOW})
    task, asked, measured, published, verdict = describe(outcome(test, folder))
    assert (task, asked) == ("mbbl/Ant-ET", "diffsr − lvrep > 0.0 (last)")
    assert re.fullmatch(r"\+99\.8 \(\+98 %\) \[9\d\.\d, 10\d\.\d\] \(n=4/4, diffsr\)", measured)
    assert (published, verdict) == ("+2,276.8 (+91 %)", "supported")


def test_the_published_numbers_say_what_the_claims_say():
    """All but those that the notes name: CGPO's own table speaks against both its claims."""
    against = set()
    for claim in claims():
        for test in claim.tests:
            means = [side.published.mean for side in test.sides if side.published]
            if len(means) < len(test.sides) or None in means:
                continue
            effect = means[0]
            if test.effect != "level":
                effect = means[0] / means[1] if test.effect == "ratio" else means[0] - means[1]
            if not test.above < effect < test.below:
                against.add((claim.name, test.task, test.sides[-1].label))
    levels = {name for name, _, _ in against if name.endswith("metaworld")}
    counts = {name: len([x for x in against if x[0] == name]) for name in levels}
    assert counts == {"diffsr-metaworld": 8 - 7, "mulvrep-metaworld": 50 - 33}
    assert {x for x in against if x[0] not in levels} == {
        ("qvpo-over-baselines", "gym/Humanoid-v5", "td3"),
        ("dipo-over-baselines", "gym/HalfCheetah-v5", "sac"),
        ("dipo-over-baselines", "gym/HalfCheetah-v5", "td3"),
        ("dipo-over-baselines", "gym/Humanoid-v5", "td3"),
    }


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.name)
def test_every_claim_can_be_run_here(claim):
    assert not claim.protocol.reduced
    assert claim.protocol == PROTOCOLS[claim.protocol.name] or claim.name == "polygrad-over-ppo"
    for test in claim.tests:
        assert envs.task(test.task).id == test.task
        for side in test.sides:
            algo, _, variant = side.label.partition("@")
            agent = algos.load(algo)
            options = {field.name for field in fields(agent.Config)}
            for choice in variant.split(",") if variant else ():
                assert choice in agent.presets or choice.partition("=")[0] in options
            if side.published:
                assert side.published.task == test.task


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    folder = write(tmp_path / "quick", {"diffsr": HIGH, "lvrep": LOW}, reduced=True)
    out = tmp_path / "claims.md"
    code = main(["diffsr-over-lvrep", "--experiment", str(folder), "--out", str(out)])
    text = capsys.readouterr().out
    assert code == 0
    assert "1 of a reduced protocol only" in text
    assert "To run what is missing" in text
    page = out.read_text()
    assert page.startswith("# Claims\n")
    assert "**not enough data**: Diff-SR returns more than LV-Rep" in page
    assert "| +2,276.8 (+91 %) |" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown claim 'nothing'; expected some of diffsr-over-lvrep, "),
        (["--experiment", "nowhere"], "no experiment folder 'nowhere'"),
        (["--results", "nowhere"], "no kept experiment in 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_the_committed_page_is_up_to_date(tmp_path):
    out = tmp_path / "claims.md"
    assert main(["--results", str(ROOT / "results"), "--out", str(out)]) == 0
    committed = (ROOT / "docs" / "claims.md").read_text()
    assert out.read_text() == committed, "run python -m analysis.claims --out docs/claims.md"

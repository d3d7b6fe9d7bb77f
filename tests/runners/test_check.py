"""Every rule holds for every agent, and every rule can fail."""

import itertools

import pytest

import algos
import tests.helpers.agents as tiny
from algos import UnknownAlgo
from runners import check
from runners.conformance import RULES, Outcome, apply_rule
from runners.conformance.declarations import SOURCE
from runners.terminal.cli import run_main
from tests.helpers.selection import mostly_extended

# Rule, an agent that breaks it, words of the failure.
BROKEN = [
    ("actions_are_valid", tiny.TooLarge, "clamp"),
    ("actions_are_valid", tiny.Doubles, "float64: return float32"),
    ("actions_are_valid", tiny.Flat, "[1, 3]: return [R, N, action_dim]"),
    ("actions_are_valid", tiny.Overflows, "at mean observation 1000 gave NaN"),
    ("same_seed_same_run", tiny.Unseeded, "two different runs"),
    ("same_seed_same_run", tiny.OneSeedForAll, "seeds 0 and 1 chose the same"),
    ("same_seed_same_run", tiny.NeverLearns, "no metrics"),
    ("save_load_continues", tiny.ForgetsOptimizer, "components()"),
    ("policy_state_acts", tiny.HidesItsPolicy, "after load_policy()"),
    ("replica_equals_alone", tiny.MixesReplicas, "replica 0 of a group of 2"),
    ("arrays_are_not_kept", tiny.KeepsArrays, "keeps a reference"),
    ("arrays_are_not_kept", tiny.CentresObservations, "act() wrote into obs"),
    ("arrays_are_not_kept", tiny.ScalesRewards, "transition.reward"),
    ("terminated_is_not_truncated", tiny.IgnoresEnds, "taught the same"),
    ("terminated_is_not_truncated", tiny.EndsAtTimeLimits, "one like any other"),
    ("terminated_is_not_truncated", tiny.DropsTheOption, "time_limit_terminal=True"),
    ("metrics_are_tensors", tiny.ReadsNumbers, ".item()"),
    ("metrics_are_tensors", tiny.OneNumberForAll, "has shape []"),
    ("metrics_are_tensors", tiny.KeepsGraph, "detach()"),
    ("metrics_are_tensors", tiny.Diverges, "diverge"),
    ("facts_are_true", tiny.NoPaper, "`paper` is empty"),
    ("presets_build", tiny.NoQuick, "no preset `quick`"),
    ("presets_build", tiny.WrongPreset, "did you mean rate"),
    ("facts_are_true", tiny.UnknownTaskOverride, "did you mean 'mbbl/HalfCheetah'"),
    ("facts_are_true", tiny.WrongKind, "observation_kinds"),
    ("options_are_described", tiny.NoSentence, "'depth' has no sentence"),
    ("max_replicas_fit", tiny.TwoOfThree, "only two fit"),
    ("evaluation_changes_nothing", tiny.SharedStream, "act(explore=False)"),
    ("global_rng_is_untouched", tiny.GlobalDropout, "generator of torch"),
    ("acts_before_learning", tiny.NeedsAnUpdate, "no attribute 'scale' (agents.py:"),
    ("acts_before_learning", tiny.NoWarmUp, "hardly vary"),
]


@pytest.fixture(autouse=True)
def one_thread(single_thread):
    """Bitwise rules are about one thread, as in training."""


@pytest.fixture
def single_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SUBJECTS = check.subjects({name: algos.load(name) for name in algos.list_algos()})
# Quick: every rule for SAC, and for every version one rule that acts, learns and saves.
QUICK = [("sac", rule) for rule in RULES] + [
    (subject, "save_load_continues") for subject in SUBJECTS
]


@pytest.mark.parametrize(
    ("subject", "name"), mostly_extended(itertools.product(SUBJECTS, RULES), quick=QUICK)
)
def test_rule_holds(subject, name):
    outcome = apply_rule(name, SUBJECTS[subject])
    if outcome.verdict == "skip":
        pytest.skip(outcome.reason)
    assert outcome.verdict == "pass", outcome.reason


@pytest.mark.parametrize("name", RULES)
def test_rule_holds_for_the_tiny_agent(name):
    assert apply_rule(name, tiny.Tiny).reason == ""


@pytest.mark.parametrize(("name", "agent", "words"), BROKEN)
def test_rule_can_fail(name, agent, words):
    outcome = apply_rule(name, agent)
    assert outcome.verdict == "FAIL"
    assert words in outcome.reason
    assert "\n" not in outcome.reason


def test_every_rule_has_an_agent_that_breaks_it():
    assert {name for name, _, _ in BROKEN} == set(RULES)


def test_a_module_must_cite_its_source(monkeypatch):
    monkeypatch.setattr(tiny, "__doc__", "Linear TD(0), invented here.")
    assert "cites no source" in apply_rule("facts_are_true", tiny.Uncited).reason


@pytest.mark.parametrize(
    "text",
    ["(arXiv\n1812.05905)", "arxiv.org/abs/2406.16121", "wadx2019/qvpo 40a1974", "github.com/a/b"],
)
def test_forms_of_a_source(text):
    assert SOURCE.search(f"Method, {text}, described.")


def test_rules_that_do_not_apply_are_skipped_with_a_reason():
    assert apply_rule("replica_equals_alone", tiny.Alone) == Outcome(
        "skip", "declares max_replicas = 1"
    )
    declared = apply_rule("terminated_is_not_truncated", tiny.Excepted)
    assert declared == Outcome("skip", "declared: its task never ends")


def test_an_exception_from_an_unknown_rule_is_a_failure(monkeypatch):
    monkeypatch.setattr(tiny.Excepted, "rule_exceptions", {"no_such_rule": "why not"})
    assert "not a rule" in apply_rule("facts_are_true", tiny.Excepted).reason


def test_command_passes(capsys, monkeypatch):
    monkeypatch.setattr(algos, "load", lambda name: tiny.Tiny)
    assert check.main(["--algo", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tiny"]
    assert [line.split() for line in lines[1 : 1 + len(RULES)]] == [[n, "pass"] for n in RULES]
    assert "0 broken" in lines[-1]


def test_command_names_what_is_broken(capsys, monkeypatch):
    agents = {"good": tiny.Tiny, "bad": tiny.NoPaper}
    monkeypatch.setattr(algos, "load", agents.__getitem__)
    assert check.main(["--algo", "good,bad"]) == 1
    out = capsys.readouterr().out
    assert "FAIL bad, facts_are_true: `paper` is empty: declare it" in out
    assert "1 broken" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo", "sacc"], "did you mean sac?"),
        (["--algo", "sac,,nope"], "unknown algo 'nope'"),
        (["--algo", ","], "--algo: name one of"),
        (["--alog", "sac"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: check.main(arguments))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_unknown_algo_is_a_value_error():
    with pytest.raises(UnknownAlgo):
        check.main(["--algo", "unknown"])

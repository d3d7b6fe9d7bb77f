"""Options: parsing, ranges, messages, and the declarations of every agent."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

import algos
from algos.base.offpolicy import OffPolicyConfig
from algos.parts.config import OptionError, build_config, describe_options, option

AGENTS = algos.list_algos()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(OffPolicyConfig):
    layers: int = option(2, "number of layers", low=1, high=4)
    rate: float = option(0.1, "learning rate", low=0.0)
    flag: bool = option(False, "a switch")
    mode: str = option("learned", "how alpha is set", choices=("learned", "fixed"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3.0", 3), ("1e0", 1)],
)
def test_integers_parse_from_text(text: str, value: int) -> None:
    parsed = build_config(Example, {"layers": text}).layers
    assert parsed == value
    assert isinstance(parsed, int)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("YES", True), ("1", True), ("false", False), ("no", False)]
)
def test_switches_parse_from_text(text: str, value: bool) -> None:
    assert build_config(Example, {"flag": text}).flag is value


def test_numbers_and_names_parse_from_text() -> None:
    config = build_config(Example, {"rate": "3e-4", "mode": "fixed", "random_steps": "1e4"})
    assert (config.rate, config.mode, config.random_steps) == (3e-4, "fixed", 10_000)


def test_values_are_taken_as_they_are() -> None:
    config = build_config(Example, {"rate": 0.5, "layers": 4, "flag": True})
    assert (config.rate, config.layers, config.flag) == (0.5, 4, True)


def test_no_overrides_give_the_defaults() -> None:
    assert build_config(Example, {}) == Example()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("layers", "2.5", "expected int"),
        ("layers", "two", "expected int"),
        ("layers", "inf", "expected int"),
        ("rate", "fast", "expected float"),
        ("flag", "maybe", "expected true or false"),
        ("layers", "0", "valid range is 1 to 4"),
        ("layers", "5", "valid range is 1 to 4"),
        ("rate", "-0.1", "valid range is 0 to inf"),
        ("rate", "nan", "valid range is 0 to inf"),
        ("rate", "inf", "valid range is 0 to inf"),
        ("mode", "learnt", "valid values are learned, fixed, did you mean learned?"),
    ],
)
def test_bad_values_are_refused_in_one_line(name: str, text: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        build_config(Example, {name: text})
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean batch_size") as error:
        build_config(Example, {"batchsize": 1})
    assert "layers" in str(error.value)  # all valid names are listed
    with pytest.raises(OptionError) as error:
        build_config(Example, {"zzz": 1})
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("algo", AGENTS)
def test_every_option_has_a_sentence(algo: str) -> None:
    cls = algos.load(algo).Config
    listed = describe_options(cls)
    assert [name for name, _, _ in listed] == [f.name for f in dataclasses.fields(cls)]
    for name, default, sentence in listed:
        assert len(sentence.split()) >= 2, f"{algo}.{name} has no sentence"
        assert default == str(getattr(cls(), name))


@pytest.mark.parametrize("algo", AGENTS)
def test_defaults_lie_in_their_own_ranges(algo: str) -> None:
    cls = algos.load(algo).Config
    defaults = dataclasses.asdict(cls())
    assert build_config(cls, defaults) == cls()


@pytest.mark.parametrize("algo", AGENTS)
def test_presets_and_task_overrides_build_a_config(algo: str) -> None:
    agent = algos.load(algo)
    presets = {"": {}, **agent.presets}
    tasks = {"": {}, **agent.task_overrides}
    for preset, task in itertools.product(presets, tasks):
        options = {**tasks[task], **presets[preset]}
        config = build_config(agent.Config, options)
        for name, value in options.items():
            assert getattr(config, name) == value


@pytest.mark.parametrize("algo", AGENTS)
def test_every_agent_has_the_two_presets_of_the_suite(algo: str) -> None:
    agent = algos.load(algo)
    assert {"released", "quick"} <= set(agent.presets)
    for preset, options in agent.presets.items():
        changed = {n for n, v in options.items() if getattr(agent.Config(), n) != v}
        # `target_samples` of QVPO is listed to win over its own values per task.
        by_task = {n for override in agent.task_overrides.values() for n in override}
        assert changed | by_task >= set(options), f"{preset} repeats defaults"


def test_unknown_algorithms_and_private_files() -> None:
    assert "_template" not in AGENTS
    with pytest.raises(algos.UnknownAlgo, match="did you mean diffsr"):
        algos.load("diff-sr")

"""Arguments that commands share: both forms of a flag, and help that fits on a screen."""

import pytest

import algos
from algos.parts.config import describe_options
from runners import sweep, train
from runners.cells.protocols import get_protocol
from runners.terminal.options import seeds_of
from tests.helpers.runs import ROOT

PARSERS = {"sweep": sweep.parser, "train": train.parser}


@pytest.mark.parametrize("command", ["sweep", "train"])
@pytest.mark.parametrize(
    ("words", "seeds"),
    [("", [0, 1]), ("--seeds 3", [0, 1, 2]), ("--seeds 2,5", [2, 5]), ("--seed 3", [3])],
)
def test_a_seed_flag_means_the_same_everywhere(command, words, seeds):
    arguments = PARSERS[command]().parse_args(["--algo=sac", "--task=a", *words.split()])
    assert seeds_of(arguments, 2) == seeds


def test_sweep_takes_the_flags_of_train():
    words = ["--algo=sac", "--task=mbbl/Pendulum", "--seed=4"]
    request = sweep.read_request(sweep.parser().parse_args(words))
    assert (request.entries, request.tasks, request.seeds) == (["sac"], ["mbbl/Pendulum"], [4])


def test_train_takes_the_flags_of_sweep():
    words = ["--algos=sac@quick", "--tasks=mbbl/Pendulum", "--seeds=4,"]
    arguments = train.parser().parse_args(words)
    cell = train.make_cell(arguments, get_protocol(arguments.protocol))
    assert cell.name == "mbbl/Pendulum sac@quick seed 4"


@pytest.mark.parametrize("command", ["sweep", "train"])
def test_help_fits_on_a_screen(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        PARSERS[command]().parse_args(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 80
    assert "batch_size" not in text


@pytest.mark.parametrize("command", ["sweep", "train"])
@pytest.mark.parametrize("algo", ["sac", "algos/_template.py"])
def test_options_of_an_algorithm_have_a_help_of_their_own(command, algo, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        PARSERS[command]().parse_args(["--help-algo", algo])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for agent in algos.versions(algos.load(algo)).values():
        for name, default, doc in describe_options(agent.Config):
            assert f"  {name}={default}: {doc}\n" in text

"""Which launcher a command line means, and what it refuses in one line."""

import pytest

from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.launchers import choose
from runners.launchers.local import LocalLauncher
from runners.launchers.remote import Needs
from runners.terminal.cli import Parser


def parse(*words):
    parser = Parser("test", "")
    choose.add_launcher(parser)
    return parser.parse_args(words)


@pytest.fixture
def made(monkeypatch):
    """What the launchers of a cluster are made of; there is none here."""
    made = []
    for module in ("ray", "slurm"):
        pytest.importorskip("ray" if module == "ray" else "submitit")
        launcher = f"runners.launchers.{module}.{module.title()}Launcher"
        monkeypatch.setattr(launcher, lambda *values: made.append(values))
    return made


def test_the_local_launcher_is_the_default():
    launcher = choose.make_launcher(parse(), 3, RunSettings())
    assert isinstance(launcher, LocalLauncher)
    assert launcher.workers == 3


def test_options_reach_ray(made):
    settings = RunSettings("cuda")
    choose.make_launcher(parse("--launcher=ray"), 1, settings)
    words = "--launcher=ray --address=head:1 --cpus-per-run=0.5 --gpus-per-run=0.25"
    choose.make_launcher(parse(*words.split(), "--memory-per-run=3"), 1, settings)
    assert made == [("auto", settings, Needs(1, 1)), ("head:1", settings, Needs(0.5, 0.25, 3))]


def test_options_reach_slurm(made):
    settings = RunSettings()
    choose.make_launcher(parse("--launcher=slurm"), 1, settings)
    words = "--launcher=slurm --partition=long --time=90 --workers=7 --slurm account=a=b"
    choose.make_launcher(parse(*words.split(), "--slurm", "qos=low"), 1, settings)
    extra = {"account": "a=b", "qos": "low"}
    assert made == [
        (settings, Needs(), 240, None, None, {}),
        (settings, Needs(), 90, "long", 7, extra),
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--launcher=ray --workers=3", "--workers 3: only with --launcher local or slurm"),
        ("--gpus-per-run=0.5", "--gpus-per-run 0.5: only with --launcher ray or slurm"),
        ("--launcher=ray --partition=x", "--partition x: only with --launcher slurm"),
        ("--launcher=slurm --address=auto", "--address auto: only with --launcher ray"),
        ("--slurm qos=low", "--slurm qos=low: only with --launcher slurm"),
        ("--launcher=slurm --time=0", "--time 0: must be at least 1"),
        ("--launcher=slurm --workers=0", "--workers 0: must be at least 1"),
        ("--launcher=slurm --slurm qos", "--slurm qos: expected KEY=VALUE, as in account=mine"),
        (
            "--launcher=slurm --slurm=--qos=x",
            "--slurm --qos=x: expected KEY=VALUE, as in account=mine",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(words, line, made):
    with pytest.raises(UserError) as error:
        choose.make_launcher(parse(*words.split()), 1, RunSettings())
    assert str(error.value) == line
    assert not made

"""Fixtures of the runner's tests."""

import signal

import pytest

import algos
from runners.cells.protocols import PROTOCOLS
from runners.launchers import local
from tests.helpers.runs import FAKES, TINY, load_fake, work_with_fakes


@pytest.fixture
def signal_handlers():
    """Give pytest its handlers back: what starts and stops runs takes over SIGINT and SIGTERM."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def sweeps_of_fakes(monkeypatch, signal_handlers):
    """Sweeps in this process know the protocol `tiny` and the agents of `FAKES` only."""
    monkeypatch.setattr(algos, "load", load_fake)
    monkeypatch.setattr(algos, "list_algos", lambda: sorted(FAKES))
    monkeypatch.setattr(local, "work", work_with_fakes)
    monkeypatch.setitem(PROTOCOLS, "tiny", TINY)

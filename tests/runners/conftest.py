"""Fixtures of the runner's tests."""

import signal

import pytest
from runner_helpers import FAKES, TINY, load_fake, work_with_fakes

import algos
from runners.launchers import local
from runners.protocols import PROTOCOLS


@pytest.fixture
def sweeps_of_fakes(monkeypatch):
    """Sweeps in this process know the protocol `tiny` and the agents of `FAKES` only."""
    monkeypatch.setattr(algos, "load", load_fake)
    monkeypatch.setattr(algos, "list_algos", lambda: sorted(FAKES))
    monkeypatch.setattr(local, "work", work_with_fakes)
    monkeypatch.setitem(PROTOCOLS, "tiny", TINY)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)

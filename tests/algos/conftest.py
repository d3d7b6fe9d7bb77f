"""Fixtures of the tests of the algorithms."""

import pytest

from algos.parts import precision


@pytest.fixture
def bfloat16_products(monkeypatch):
    """Products in bfloat16 if an agent asks for it, however long this processor needs for them."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)

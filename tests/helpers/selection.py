"""Which values of a large matrix `make test` tries; `make test-all` tries the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_extended(values: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """Return `values` for `pytest.mark.parametrize`, all marked `extended` but a few.

    Args:
        values: what to parametrise with; a tuple holds the values of several arguments.
        quick: those of `values` that represent the others in `make test`.
    """
    values, quick = list(values), list(quick)
    unknown = [value for value in quick if value not in values]
    assert not unknown, f"not among the values of the matrix: {unknown}"
    return [
        value
        if value in quick
        else pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.extended
        )
        for value in values
    ]

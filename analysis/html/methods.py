"""The methods of a report as its page knows them, and what depends on them in a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.data.experiment import Experiment


@dataclass(frozen=True)
class Method:
    """A method in the report.

    Attributes:
        number: its place among the methods, by which the filters of the page know it.
        label: `<algo>[@<variant>]`.
        name: what to print.
    """

    number: int
    label: str
    name: str

    @property
    def class_(self) -> str:
        """The CSS class that sets its colour."""
        return f"method-{self.number}"

    @property
    def tags(self) -> dict[str, str]:
        """Attributes of an element that belongs to the method: its colour, and its filter."""
        return {"class_": self.class_, "data_method": str(self.number)}


def list_methods(experiment: Experiment) -> list[Method]:
    """List the methods of an experiment in the order of its tables."""
    return [Method(i, *pair) for i, pair in enumerate(experiment.names.items())]


def heads(corner: str, methods: Sequence[Method]) -> list[str]:
    """Return the headings of a table with a column for each method."""
    return [corner, *(method.name for method in methods)]


def columns(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Return the attributes of a row's heading and cells, by which a filter hides a column."""
    return [{}, *({"data_method": method.number} for method in methods)]

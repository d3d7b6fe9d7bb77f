"""Declare the options of an agent once and validate them everywhere.

An agent's options are the fields of a frozen dataclass. Each field is made with
`option`, which keeps the sentence a user reads and the range a value must lie in.
The command line, `runners.check` and the manifest all read the same declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar, get_type_hints


class OptionError(ValueError):
    """A user's option is unknown or out of range; the message is one line."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `, did you mean X?` for the closest of `valid`, or an empty string."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    inert: Any = None,
) -> Any:
    """Declare one option of an agent.

    Args:
        default: value of the correct reading.
        doc: one sentence with the unit and the source of the default.
        low: smallest valid value, included.
        high: largest valid value, included.
        choices: valid names of a string option.
        inert: the value at which the method is what it was before it had this option. It is
            left out of a cell's identity, so that cells of before stay what they are.
    """
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "inert": inert}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Options that every agent has.

    Attributes:
        retired: options that the method once had, each with the value that it has had ever since.
            Runs of before name them: they are read, and stay in the identity of a cell.
    """

    retired: ClassVar[Mapping[str, Any]] = {}

    discount: float = option(0.99, "discount factor gamma", low=0.0, high=1.0)
    batch_size: int = option(256, "transitions in one update", low=1)
    precision: str = option(
        "bfloat16",
        "arithmetic of the large matrix products where the machine has it, else float32; "
        "weights and losses stay float32",
        choices=("float32", "tf32", "bfloat16"),
    )


ConfigT = TypeVar("ConfigT", bound=AgentConfig)


def _parse(name: str, text: str, kind: Any) -> Any:
    """Turn the text of `--set name=text` into the declared type."""
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise OptionError(f"option {name}={text}: expected true or false")
        return words[text.lower()]
    if kind is str:
        return text
    try:
        if kind is int:
            value = float(text)
            if not value.is_integer():
                raise ValueError
            return int(value)
        return float(text)
    except (ValueError, OverflowError):
        raise OptionError(f"option {name}={text}: expected {kind.__name__}") from None


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    choices, low, high = metadata["choices"], metadata["low"], metadata["high"]
    if choices and value not in choices:
        hint = nearest(str(value), choices)
        raise OptionError(f"option {name}={value}: valid values are {', '.join(choices)}{hint}")
    if isinstance(value, str | bool):
        return
    too_low = low is not None and value < low
    too_high = high is not None and value > high
    if too_low or too_high or not math.isfinite(value):
        bounds = (
            f"{'-inf' if low is None else f'{low:g}'} to {'inf' if high is None else f'{high:g}'}"
        )
        raise OptionError(f"option {name}={value}: valid range is {bounds}")


def build_config(cls: type[ConfigT], overrides: Mapping[str, Any]) -> ConfigT:
    """Make the config `cls` with `overrides` (values, or texts from the command line).

    Raises:
        OptionError: one line that names an unknown option or a value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    kinds = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        if name in cls.retired:
            if str(value) != str(cls.retired[name]):
                raise OptionError(f"option {name}={value}: fixed at {cls.retired[name]} by now")
            continue
        if name not in fields:
            raise OptionError(
                f"unknown option {name!r}: valid options are {', '.join(sorted(fields))}"
                f"{nearest(name, fields)}"
            )
        parsed = _parse(name, value, kinds[name]) if isinstance(value, str) else value
        _check_range(name, parsed, fields[name].metadata)
        values[name] = parsed
    return cls(**values)


def inert_options(config: AgentConfig) -> frozenset[str]:
    """Names of the options of `config` that are at their inert value."""
    fields = [f for f in dataclasses.fields(config) if f.metadata.get("inert") is not None]
    return frozenset(f.name for f in fields if getattr(config, f.name) == f.metadata["inert"])


def describe_options(cls: type[AgentConfig]) -> list[tuple[str, str, str]]:
    """List (name, default, sentence) of every option, in order of declaration."""
    return [(f.name, str(f.default), f.metadata["doc"]) for f in dataclasses.fields(cls)]

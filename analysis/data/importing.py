"""Runs from elsewhere as one more method of an experiment.

They become run directories that `load` reads, under the variant `imported`. So every table and
figure names them so, and no claim and no verdict takes them for runs of this suite.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.errors import ParserWarning

from analysis.data.load import load
from runners.cells.files import write_atomic
from runners.cells.schema import EVALUATION_COLUMNS, FORMAT, SUCCESS_COLUMNS
from runners.cells.statuses import RECORDED

IMPORTED = "imported"
"""The variant of imported runs: a method `sac` becomes `sac@imported`."""

COLUMNS = ["task", "method", "seed", "status", *EVALUATION_COLUMNS, *SUCCESS_COLUMNS]
"""The tidy table: one row per evaluation episode."""

REQUIRED = ("task", "method", "seed", "env_step", "return")
"""The columns that an imported table cannot do without."""

RUN_COLUMNS = ["task", "method", "seed"]
RATES = ("success", *SUCCESS_COLUMNS)
WHOLE = ("seed", "env_step", "episode")
TEXTS = ("task", "method", "status")
IMPORT_NOTE = "Imported runs followed the rules of those who ran them, not a protocol of this suite"
NAME = r"[A-Za-z0-9][\w.+=,@-]*"
EXPERIMENT, METHOD, TASK = NAME, NAME, f"{NAME}/{NAME}"


class ImportedError(ValueError):
    """A table, a log or a name that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Origin:
    """Where imported runs come from; without paths, which mean nothing on another machine.

    Attributes:
        text: in words, such as "TensorBoard logs of Stable-Baselines3".
        facts: what else is known, for run.json.
        runs: the name that each seed's run had there.
    """

    text: str
    facts: Mapping[str, str]
    runs: Mapping[int, str] = field(default_factory=dict)


def is_imported(label: str) -> bool:
    """Return whether the runs of a method label were imported."""
    return IMPORTED in label.partition("@")[2].split(",")


def read_tidy(file: Path) -> pd.DataFrame:
    """Read a tidy table, of whose columns only `REQUIRED` have to be there.

    Args:
        file: a CSV file, or a Parquet file if its name says so.

    Returns:
        The table with all of `COLUMNS`. Without a column `episode` the rows of an evaluation are
        numbered; without a column `status` every run is done.

    Raises:
        ImportedError: the header is wrong, or a value is missing or makes no sense.
    """
    table = _read_file(file)
    _check_header(list(table.columns), file)
    if table.empty:
        raise ImportedError(f"{file} has no row; expected one per evaluation episode")
    _check_values(table, file)
    evaluation = [*RUN_COLUMNS, "env_step"]
    if "episode" not in table.columns:
        table["episode"] = table.groupby(evaluation).cumcount()
    _refuse(table.duplicated([*evaluation, "episode"]), table, "episode", file, "each once")
    if "status" not in table.columns:
        table["status"] = "done"
    mixed = table.groupby(RUN_COLUMNS)["status"].transform("nunique") > 1
    _refuse(mixed, table, "status", file, "one status per run")
    return table.reindex(columns=COLUMNS)


def add_runs(table: pd.DataFrame, results: Path, name: str, origin: Origin) -> str:
    """Write imported runs into an experiment, which is made if there is none of the name.

    Runs that were imported earlier under the same method and task are replaced.

    Args:
        table: the episodes, with the columns `COLUMNS`.
        results: folder of the experiments.
        name: the experiment's name.
        origin: where the runs come from.

    Returns:
        What was done, for the user.

    Raises:
        ImportedError: a name cannot be used.
        ExperimentError: there is an experiment of that name that cannot be read.
    """
    for text, pattern, what in (
        (name, EXPERIMENT, "experiment"),
        *((task, TASK, "task") for task in table["task"].unique()),
        *((method, METHOD, "method") for method in table["method"].unique()),
    ):
        if not re.fullmatch(pattern, text):
            raise ImportedError(f"cannot use the {what} '{text}'; expected {_expected(what)}")
    folder = results / name
    if (folder / "experiment.json").exists():
        load(folder)
    elif folder.exists():
        raise ImportedError(f"'{folder}' is there and is no experiment; expected another name")
    else:
        folder.mkdir(parents=True)
        write_atomic(folder / "experiment.json", _json(_experiment(table, name)))
    table = table.assign(label=table["method"].map(_label))
    for task, label in table[["task", "label"]].drop_duplicates().itertuples(index=False):
        shutil.rmtree(folder / task / label, ignore_errors=True)
    runs = 0
    for (task, label, seed), rows in table.groupby(["task", "label", "seed"]):
        _write_run(folder / f"{task}/{label}/seed-{seed:.0f}", rows, origin)
        runs += 1
    labels = ", ".join(table["label"].unique())
    return f"Imported: {runs} runs of {labels}. To see them: python -m analysis.report {folder}"


def _read_file(file: Path) -> pd.DataFrame:
    """Read a CSV file, all of it as text, or a Parquet file."""
    if not file.is_file():
        raise ImportedError(f"no file '{file}'; expected a table in .csv or .parquet")
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            with warnings.catch_warnings():
                # A row that is longer than the header is cut with a warning only.
                warnings.simplefilter("error", ParserWarning)
                table = pd.read_csv(file, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, OSError, ParserWarning) as error:
        raise ImportedError(f"cannot read '{file}': {' '.join(str(error).split())}") from error
    return table


def _check_header(columns: Sequence[str], file: Path) -> None:
    """Raise `ImportedError` if a table cannot be one of evaluation episodes."""
    valid = f"expected {','.join(REQUIRED)} and, if known, "
    valid += ",".join(name for name in COLUMNS if name not in REQUIRED)
    unknown = [str(name) for name in columns if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in columns]
    for word, names in (("lacks", missing), ("has the unknown", unknown)):
        if names:
            noun = "column" if len(names) == 1 else "columns"
            raise ImportedError(f"{file} {word} {noun} {', '.join(names)}; {valid}")


def _check_values(table: pd.DataFrame, file: Path) -> None:
    """Turn the columns of numbers into numbers, and refuse values that make no sense."""
    for name in table.columns.difference(list(TEXTS)):
        table[name] = _numbers(table, name, file)
    for name, pattern in (("task", TASK), ("method", METHOD), ("status", "|".join(RECORDED))):
        if name in table.columns:
            texts = table[name].astype(str)
            _refuse(~texts.str.fullmatch(pattern), table, name, file, _expected(name))
    for name in WHOLE:
        if name in table.columns:
            odd = (table[name] < 0) | (table[name] % 1 != 0)
            _refuse(odd, table, name, file, "a whole number from 0 on")
    for name in RATES:
        if name in table.columns:
            _refuse(~table[name].fillna(0).between(0, 1), table, name, file, "0 to 1")


def _numbers(table: pd.DataFrame, name: str, file: Path) -> pd.Series:
    """Read a column of numbers, which may be empty where it is not required."""
    texts = table[name].astype(str).str.strip()
    numbers = pd.to_numeric(table[name], errors="coerce")
    empty = texts.str.lower().isin(["", "nan", "none", "<na>"])
    allowed = empty if name not in (*REQUIRED, *WHOLE) else pd.Series(False, index=table.index)
    _refuse(numbers.isna() & ~allowed, table, name, file, "a number")
    return numbers.astype(float)


def _refuse(wrong: pd.Series, table: pd.DataFrame, name: str, file: Path, valid: str) -> None:
    """Raise `ImportedError` at the first wrong row; the header of a CSV file is line 1."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        value = table[name].iloc[row]
        shown = "is empty" if pd.isna(value) or not str(value).strip() else f"is '{value}'"
        raise ImportedError(f"{file}, line {row + 2}: {name} {shown}; expected {valid}")


def _expected(what: str) -> str:
    return {
        "task": "<suite>/<name>, such as gym/Hopper-v5",
        "method": "a name without '/' and spaces, such as my-sac",
        "experiment": "a name without '/' and spaces, such as mine",
        "status": f"one of {', '.join(RECORDED)}",
    }[what]


def _label(method: str) -> str:
    """Return the label of an imported method, whose variant says that it was imported."""
    if is_imported(method):
        return method
    return f"{method}{',' if '@' in method else '@'}{IMPORTED}"


def _experiment(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Describe an experiment of imported runs by what they hold."""
    steps = table["env_step"].drop_duplicates().sort_values()
    evaluations = table.groupby([*RUN_COLUMNS, "env_step"]).size()
    protocol = {
        "name": IMPORTED,
        "steps": int(steps.iloc[-1]),
        "eval_every": int(steps.diff().min() if len(steps) > 1 else steps.iloc[-1]),
        "eval_episodes": int(evaluations.max()),
        "reported": "last,best",
        "reduced": False,
        "note": f"{IMPORT_NOTE}.",
    }
    return {"format": FORMAT, "name": name, "protocol": protocol}


def _write_run(folder: Path, rows: pd.DataFrame, origin: Origin) -> None:
    """Write one run directory, its run.json last."""
    first = rows.iloc[0]
    folder.mkdir(parents=True)
    judged = SUCCESS_COLUMNS if rows[list(SUCCESS_COLUMNS)].notna().any(axis=None) else ()
    episodes = rows.sort_values(["env_step", "episode"])[[*EVALUATION_COLUMNS, *judged]]
    whole = dict.fromkeys(["env_step", "episode"], "int64")
    write_atomic(folder / "evaluations.csv", episodes.astype(whole).to_csv(index=False))
    algo = str(first["label"]).partition("@")[0]
    run = {
        "format": FORMAT,
        "task": first["task"],
        "algo": algo,
        "label": first["label"],
        "title": algo,
        "seed": int(first["seed"]),
        "status": first["status"],
        "reason": None if first["status"] == "done" else "as imported",
        "steps": int(rows["env_step"].max()),
        "config": {},
        "protocol": {"name": IMPORTED, "note": f"{IMPORT_NOTE}."},
        "code": f"imported from {origin.text}, not run by this suite",
        IMPORTED: {"from": origin.text, **origin.facts, "run": origin.runs.get(int(first["seed"]))},
    }
    write_atomic(folder / "run.json", _json(run))


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

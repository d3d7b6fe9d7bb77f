"""The trained policy of a run, for those who look at it: `watch`, `generate`.

A finished run keeps `policy/` beside its files: what `act` reads, in the form of a checkpoint,
without memory and optimisers. Of a run that goes on or was stopped the newest checkpoint serves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from algos.base.agent import Agent
from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.cells.protocols import Protocol
from runners.cells.schema import FORMAT
from runners.storage import checkpoint
from runners.training.loop import make_agent


def read_cell(run: Path, source: str | None = None) -> Cell:
    """Return the cell that a run directory holds.

    Args:
        run: `results/<experiment>/<suite>/<task>/<algo>/seed-<k>`.
        source: path of the algorithm's file if it is not one of the project's.

    Raises:
        UserError: one line if there is no run, or it cannot be read.
    """
    file = run / "run.json"
    if not file.is_file():
        raise UserError(f"{run}: no run here (no run.json); a run ends in .../seed-0")
    try:
        record = json.loads(file.read_text())
        if record["format"] != FORMAT:
            raise UserError(f"{file}: has format {record['format']}, this version reads {FORMAT}")
        facts = dict(record["protocol"])
        facts["reported"] = tuple(facts["reported"].split(","))
        protocol = Protocol(**facts, tasks=(), seeds=1)
        names = (record["task"], record["algo"], record["label"])
        if "file" in record and source is None:
            raise UserError(f"{run}: made by {record['file']['name']}; give its path with --algo")
        return Cell(*names, record["config"], int(record["seed"]), protocol, source)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read ({error!r})") from None


def load_policy(run: Path, device: str = "cpu", source: str | None = None) -> Agent:
    """Return the trained agent of a run, with an empty memory if the run has ended.

    Args:
        run: its directory.
        device: cpu, cuda or cuda:N.
        source: as in `read_cell`.

    Raises:
        UserError: one line if nothing trained is there.
    """
    cell = read_cell(run, source)
    try:
        policy = checkpoint.load(run / "policy")
        whole = None if policy else checkpoint.load(run / "checkpoint")
    except checkpoint.CheckpointError as error:
        raise UserError(str(error)) from None
    found = policy or whole
    if found is None:
        raise UserError(f"{run}: holds no trained policy (no policy/, no checkpoint/)")
    if found.notice is not None:
        print(found.notice, file=sys.stderr)
    agent = make_agent((cell,), device)
    try:
        if policy is not None:
            agent.load_policy(policy.state)
        elif len(found.state["replicas"]) > 1:
            raise UserError(f"{run}: trains with other seeds; it has a policy when all ended")
        else:
            agent.load_state_dict(found.state["agent"])
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{found.path}: does not fit {cell.label} ({text[:200]})") from None
    return agent

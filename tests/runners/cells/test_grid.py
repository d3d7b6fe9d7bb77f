"""From arguments to cells: labels, who wins, identities, seeds, protocols."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import algos
import envs
from algos.base.offpolicy import OffPolicyConfig
from algos.parts.config import OptionError, build_config
from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.cells.grid import agent_for, make_cells, parse_overrides, parse_seeds, split
from runners.cells.protocols import DIFFSR, PROTOCOLS, QUICK, QVPO, get_protocol
from runners.cells.seeding import derive_seed
from runners.storage.rundir import open_experiment
from tests.helpers.experiments import tracked
from tests.helpers.runs import ROOT, TINY, Still, cell_of, load_fake


def labels(entries, sets=(), tasks=("mbbl/Pendulum",), rules=QUICK):
    return [cell.label for cell in make_cells(entries, tasks, [0], rules, sets)]


def test_labels_name_preset_and_options():
    assert labels(["sac"]) == ["sac"]
    assert labels(["sac@released"]) == ["sac@released"]
    assert labels(["sac"], ["sac.hidden=64", "sac.tau=0.01"]) == ["sac@hidden=64,tau=0.01"]
    both = labels(["sac", "sac@released", "diffsr"], ["sac.hidden=64"])
    assert both == ["sac@hidden=64", "sac@released,hidden=64", "diffsr"]


def test_options_of_one_method_leave_the_others_alone():
    sac, diffsr = make_cells(["sac", "diffsr"], ["mbbl/Pendulum"], [0], QUICK, ["sac.hidden=64"])
    assert sac.config["hidden"] == 64
    assert diffsr.config["hidden"] == algos.load("diffsr").presets["quick"]["hidden"]


def test_seeds_are_outermost_and_repeats_dropped():
    tasks = ["mbbl/Pendulum", "mbbl/CartPole", "mbbl/Pendulum"]
    cells = make_cells(["sac", "sac", "qvpo"], tasks, [2, 0], QUICK)
    assert [cell.name for cell in cells] == [
        f"{task} {algo} seed {seed}"
        for seed in (2, 0)
        for algo in ("sac", "qvpo")
        for task in ("mbbl/Pendulum", "mbbl/CartPole")
    ]


def test_later_sources_of_an_option_win(monkeypatch):
    """Default < published for the task < protocol < preset < the user's own."""

    class Layers(Still):
        Config = OffPolicyConfig
        task_overrides = {  # noqa: RUF012
            "mbbl/Pendulum": {"discount": 0.1, "random_steps": 7, "batch_size": 7}
        }
        presets = {  # noqa: RUF012
            "quick": {"batch_size": 8},
            "wide": {"batch_size": 9, "random_steps": 9},
        }

    monkeypatch.setattr(algos, "load", lambda name: Layers)

    def config(entry="layers", task="mbbl/Pendulum", rules=TINY, sets=()):
        (cell,) = make_cells([entry], [task], [0], rules, sets)
        return [cell.config[key] for key in ("discount", "random_steps", "batch_size")]

    assert config(task="mbbl/CartPole") == [0.99, TINY.random_steps, 256]
    assert config() == [0.1, TINY.random_steps, 7]
    assert config(rules=QUICK) == [0.1, QUICK.random_steps, 8]
    assert config("layers@wide", rules=QUICK) == [0.1, 9, 9]
    sets = ["layers.random_steps=3", "layers.batch_size=5", "layers.discount=0.5"]
    assert config("layers@wide", sets=sets) == [0.5, 3, 5]


def test_an_agent_without_random_steps_gets_none_from_the_protocol(monkeypatch):
    monkeypatch.setattr(algos, "load", lambda name: Still)
    (cell,) = make_cells(["still"], ["mbbl/Pendulum"], [0], TINY)
    assert "random_steps" not in cell.config


def test_published_options_of_a_task_reach_its_cell():
    tasks = ["gym/Hopper-v5", "gym/HalfCheetah-v5"]
    hopper, cheetah = make_cells(["qvpo"], tasks, [0], QVPO)
    assert hopper.config["target_samples"] == 1
    assert cheetah.config["target_samples"] == 4
    assert hopper.config["random_steps"] == QVPO.random_steps


def test_every_option_is_resolved():
    for algo in algos.list_algos():
        names = {field.name for field in dataclasses.fields(algos.load(algo).Config)}
        assert set(cell_of(algo).config) == names


def test_identity_follows_values_not_order():
    cell = cell_of("sac")
    shuffled = dataclasses.replace(cell, config=dict(reversed(cell.config.items())))
    assert list(shuffled.config) != list(cell.config)
    assert shuffled.identity == cell.identity
    changes = [
        {"seed": 1},
        {"task": "mbbl/CartPole"},
        {"algo": "qvpo"},
        {"config": {**cell.config, "tau": 0.25}},
        *(
            {"protocol": dataclasses.replace(TINY, **{name: 7})}
            for name in ("steps", "eval_every", "eval_episodes", "log_every")
        ),
    ]
    identities = {dataclasses.replace(cell, **change).identity for change in changes}
    assert len(identities) == len(changes)
    assert cell.identity not in identities


@pytest.mark.parametrize("change", [{"label": "sac@x"}, {"protocol": {"note": "other"}}], ids=str)
def test_identity_ignores_names_and_notes(change):
    cell = cell_of("sac")
    if "protocol" in change:
        change = {"protocol": dataclasses.replace(TINY, note="other", reported=("best",))}
    assert dataclasses.replace(cell, **change).identity == cell.identity


def test_identity_is_the_same_in_every_version():
    """Renaming a field here would throw away every finished run."""
    cell = Cell("mbbl/Pendulum", "sac", "sac", {"tau": 0.5, "hidden": 8}, 3, TINY)
    assert cell.identity == "5d31e55d47e12b16"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("4", [0, 1, 2, 3]), ("1", [0]), ("0,3,7", [0, 3, 7]), ("5,", [5]), ("2,2,1", [2, 1])],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["x", "-1", "", "0", "1,x", "-1,2", ",", "1.5", "0-3"])
def test_bad_seeds_are_named(text):
    with pytest.raises(UserError, match=r"--seeds .*expected a count like 4 or a list like 0,3,7"):
        parse_seeds(text)


def test_overrides():
    texts = ["sac.tau=0.1", "qvpo.weight=qcut", "sac.hidden=a=b"]
    expected = {"sac": {"tau": "0.1", "hidden": "a=b"}, "qvpo": {"weight": "qcut"}}
    assert parse_overrides(texts, ["sac", "qvpo"]) == expected


@pytest.mark.parametrize("text", ["tau=0.1", "sac.tau", "sac.=1", ".tau=1", "sac.tau=", "", "="])
def test_overrides_of_another_form_are_refused(text):
    with pytest.raises(UserError, match=r"expected ALGO.OPTION=VALUE"):
        parse_overrides([text], ["sac"])


def test_overrides_of_an_absent_method_are_refused():
    with pytest.raises(UserError, match="'qvpo' is not among --algos sac"):
        parse_overrides(["qvpo.hidden=1"], ["sac"])


def test_unknown_presets_list_the_valid_ones():
    with pytest.raises(OptionError, match=r"sac: unknown preset 'realesed': valid presets .*did"):
        make_cells(["sac@realesed"], ["mbbl/Pendulum"], [0], QUICK)


def test_values_that_cannot_name_a_folder_are_refused(monkeypatch):
    monkeypatch.setattr(algos, "load", load_fake)
    with pytest.raises(UserError, match="cannot hold '/'"):
        cell_of("still", sets=["still.precision=a/b"])
    sets = [f"still.batch_size={'0' * 250}1"]
    with pytest.raises(UserError, match="too long"):
        cell_of("still", sets=sets)


def test_split():
    assert split(" a, b,,c ") == ["a", "b", "c"]


@pytest.mark.parametrize("rules", PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocols_are_sound(rules):
    assert get_protocol(rules.name) is rules
    assert [envs.task(name).id for name in rules.tasks] == list(rules.tasks)
    assert len(set(rules.tasks)) == len(rules.tasks)
    assert 0 < rules.random_steps < rules.steps
    assert rules.steps % rules.eval_every == 0
    assert set(rules.reported) <= {"last", "last4", "best"}
    assert rules.note
    for name in algos.list_algos():
        assert make_cells([name], rules.tasks, range(rules.seeds), rules)


def test_published_budgets():
    assert (DIFFSR.steps, DIFFSR.seeds, DIFFSR.eval_every, DIFFSR.eval_episodes) == (
        *(200_000, 4, 5_000, 10),
    )
    assert (QVPO.steps, QVPO.seeds, QVPO.eval_every, QVPO.eval_episodes) == (
        *(1_000_000, 5, 10_000, 10),
    )
    assert DIFFSR.reported[0] == "last4"
    assert not DIFFSR.reduced
    assert not QVPO.reduced
    assert QUICK.reduced


def test_steps_make_a_protocol_reduced():
    assert DIFFSR.with_steps(None) is DIFFSR
    assert DIFFSR.with_steps(200_000) is DIFFSR
    assert DIFFSR.with_steps(1000).reduced
    assert not DIFFSR.with_steps(300_000).reduced
    assert QUICK.with_steps(10**6).reduced
    with pytest.raises(UserError, match="--steps 0: must be at least 1"):
        DIFFSR.with_steps(0)


def test_manifest_of_a_protocol_is_json(tmp_path):
    facts = DIFFSR.manifest()
    assert facts["reported"] == "last4,last"
    assert "tasks" not in facts
    open_experiment(tmp_path / "e", DIFFSR)
    open_experiment(tmp_path / "e", dataclasses.replace(DIFFSR, note="other words"))
    fewer = dataclasses.replace(DIFFSR, eval_episodes=9)
    with pytest.raises(UserError, match="holds cells with eval_episodes=10, not 9"):
        open_experiment(tmp_path / "e", fewer)


def test_seeds_depend_on_every_axis_and_never_change():
    assert derive_seed("eval", "mbbl/Ant", 0, 500, 1) == 2566127032
    seeds = {derive_seed("train", "t", i) for i in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed("a", "b") != derive_seed("b", "a")


def test_many_may_open_a_new_experiment_at_once(tmp_path):
    """Each writes experiment.json under a name of its own, then renames it."""
    for k in range(20):
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _, k=k: open_experiment(tmp_path / f"e{k}", TINY), range(16)))
        assert [file.name for file in (tmp_path / f"e{k}").iterdir()] == ["experiment.json"]


KEPT = [ROOT / "results" / f for f in tracked(ROOT / "results") if f.endswith("/run.json")]


@pytest.mark.parametrize("file", KEPT, ids=lambda file: str(file.relative_to(ROOT / "results")))
def test_kept_cells_stay_what_they_are(file):
    """Neither a new option at its inert value nor a retired one makes another cell of a run."""
    record = json.loads(file.read_text())
    entry, sets = record["algo"], []
    for part in filter(None, record["label"].partition("@")[2].split(",")):
        if "=" in part:
            sets.append(f"{record['algo']}.{part}")
        else:
            entry = f"{entry}@{part}"
    kept_protocol = get_protocol(record["protocol"]["name"]).with_steps(record["steps"])
    (cell,) = make_cells([entry], [record["task"]], [record["seed"]], kept_protocol, sets)
    assert (cell.label, cell.identity) == (record["label"], record["cell"])
    kind = agent_for(algos.load(cell.algo), cell.task)
    assert dataclasses.asdict(build_config(kind.Config, record["config"])) == dict(cell.config)


def test_another_option_makes_another_cell():
    old, new = (
        make_cells(["diffsr"], ["mbbl/HalfCheetah"], [0], DIFFSR, sets)[0].identity
        for sets in ([], ["diffsr.feature_norm=layer"])
    )
    assert old != new


def test_a_retired_option_has_one_value():
    with pytest.raises(OptionError, match=r"polygrad: option ema_rate=0.5: fixed at 0.01"):
        make_cells(["polygrad"], ["mbbl/Pendulum"], [0], QUICK, ["polygrad.ema_rate=0.5"])

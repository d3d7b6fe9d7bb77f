"""The papers' tables and figures as data: what each is, and which runs it needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from analysis.data.load import Measure

Kind = Literal["table", "curves", "hours", "generation", "bandit"]
Key = tuple[str, str, int]
"""A cell: task id, method label, seed index."""

TITLES = {
    "diffsr": "Diff-SR",
    "dipo": "DIPO",
    "drqv2": "DrQ-v2",
    "lvrep": "LV-Rep",
    "polygrad": "PolyGRAD",
    "ppo": "PPO",
    "qsm": "QSM",
    "qvpo": "QVPO",
    "sac": "SAC",
    "td3": "TD3",
}
"""Names of the methods, for those of which there is no run to ask."""

PUBLISHED_AS = {"ppo@spo": "spo", "dipo@write_back=false": "dipo"}
"""What published.csv calls the labels that it does not call by their algorithm.

DIPO's numbers come from code that never writes the improved actions back.
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table or figure of a paper.

    Attributes:
        name: What it is called on the command line.
        title: What it shows.
        paper: Where it was published.
        kind: How it is drawn.
        protocol: Name of the runs' protocol.
        steps: Length of the protocol's runs in environment steps.
        tasks: Task ids.
        labels: Method labels, `<algo>[@<variant>]`; each runs on each task.
        seeds: Number of seeds.
        statistics: What the value of a run is, names in `stats.RUN_STATISTICS`; the one that the
            paper reports comes first.
        measure: What an evaluation measures.
        published: The source in published.csv, empty if none of its numbers are known.
        methods: The methods of that source to show, by their names in published.csv; empty: all.
        tool: Module that makes `file` in a run directory, where the figure needs more than the
            files of the runs.
        file: See `tool`.
        note: What a reader has to know.
    """

    name: str
    title: str
    paper: str
    kind: Kind
    protocol: str
    steps: int
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    seeds: int
    statistics: tuple[str, ...]
    measure: Measure = "return"
    published: str = ""
    methods: tuple[str, ...] = ()
    tool: str = ""
    file: str = ""
    note: str = ""

    def cells(self) -> Iterator[Key]:
        """Goes through the cells that the target needs, tasks outermost."""
        for task in self.tasks:
            for label in self.labels:
                for seed in range(self.seeds):
                    yield task, label, seed

    def needs(self) -> str:
        """Says on one line what the target needs."""
        parts = [
            f"{len(values)} {noun}{'' if len(values) == 1 else 's'}"
            for noun, values in (("method", self.labels), ("task", self.tasks))
        ]
        seeds = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        rules = f"protocol {self.protocol}, {self.steps:,} steps"
        return f"{' × '.join([*parts, seeds])} = {len(list(self.cells()))} cells ({rules})"


def algo_title(label: str) -> str:
    """Returns the name of a label's algorithm."""
    algo = label.partition("@")[0]
    return TITLES.get(algo, algo)


def published_method(label: str) -> str:
    """Returns what published.csv calls a method label; a variant has no name there."""
    return PUBLISHED_AS.get(label, label)


def published_label(method: str) -> str:
    """Returns the label of the runs that a method's published numbers are compared with."""
    return next((label for label, name in PUBLISHED_AS.items() if name == method), method)


DIFFSR = "Diff-SR, Shribak et al. 2024, arXiv 2406.16121"
QVPO = "QVPO, Ding et al. 2024, arXiv 2405.16173"

MBBL = tuple(
    f"mbbl/{name}"
    for name in (
        *("HalfCheetah", "Reacher", "Humanoid-ET", "Pendulum", "InvertedPendulum"),
        *("Ant-ET", "Hopper-ET", "SlimHumanoid-ET", "CartPole", "Walker2D-ET"),
    )
)
LOCOMOTION = ("mbbl/HalfCheetah", "mbbl/Ant-ET", "mbbl/Hopper-ET", "mbbl/Walker2D-ET")
MASKED = tuple(
    f"pomdp/{name}" for name in ("HalfCheetah", "Humanoid", "Walker", "Ant", "Hopper", "Pendulum")
)
MANIPULATION = tuple(
    f"metaworld/{name}"
    for name in (
        *("bin-picking", "box-close", "button-press", "door-open"),
        *("drawer-close", "hammer", "stick-push", "sweep"),
    )
)
GYM = tuple(f"gym/{name}-v5" for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d"))
POLICIES = ("qvpo", "sac", "td3", "ppo", "ppo@spo", published_label("dipo"), "qsm")
QVPO_METHODS = tuple(map(published_method, POLICIES))
QVPO_NOTE = (
    "The numbers of QVPO's table were read in CGPO's, whose authors are the same; they are of the "
    "v3 tasks. The best evaluation of a run is chosen after the fact."
)


def _diffsr(name: str, title: str, where: str, kind: Kind, tasks: tuple[str, ...]) -> Target:
    return Target(
        name=name,
        title=title,
        paper=f"{DIFFSR}, {where}",
        kind=kind,
        protocol="diffsr",
        steps=200_000,
        tasks=tasks,
        labels=("diffsr", "lvrep", "polygrad", "sac", "ppo")
        if kind != "hours"
        else ("diffsr", "lvrep", "polygrad"),
        seeds=4,
        statistics=("last4",),
        published="Diff-SR hours" if kind == "hours" else "Diff-SR Table 1",
        note="Which tasks the main figure shows and which the appendix was not read."
        if kind == "curves"
        else "",
    )


def _ablation(name: str, title: str, figure: str, labels: tuple[str, ...], note: str) -> Target:
    return Target(
        name=name,
        title=title,
        paper=f"{QVPO}, {figure}",
        kind="curves",
        protocol="qvpo",
        steps=1_000_000,
        tasks=("gym/Ant-v5",),
        labels=labels,
        seeds=5,
        statistics=("best", "last"),
        note=note,
    )


_ALL = (
    _diffsr("diffsr-table1", "Return on MBBL", "Table 1", "table", MBBL),
    _diffsr("diffsr-curves", "Learning curves on MBBL", "learning curves", "curves", LOCOMOTION),
    _diffsr(
        "diffsr-curves-appendix",
        "Learning curves on MBBL, further tasks",
        "learning curves, appendix",
        "curves",
        tuple(task for task in MBBL if task not in LOCOMOTION),
    ),
    _diffsr("diffsr-runtime", "Run time on MBBL", "run-time figure", "hours", MBBL),
    Target(
        name="diffsr-table3",
        title="Return with masked velocities",
        paper=f"{DIFFSR}, Table 3",
        kind="table",
        protocol="pomdp",
        steps=200_000,
        tasks=MASKED,
        labels=("diffsr", "lvrep", "polygrad", "sac"),
        seeds=4,
        statistics=("last4",),
        published="Diff-SR Table 3",
    ),
    Target(
        name="diffsr-metaworld",
        title="Success on Meta-World from pixels",
        paper=f"{DIFFSR}, Meta-World figure",
        kind="curves",
        protocol="metaworld",
        steps=1_000_000,
        tasks=MANIPULATION,
        labels=("diffsr", "lvrep", "drqv2"),
        seeds=5,
        statistics=("last", "best"),
        measure="success",
        published="Diff-SR Meta-World",
        note="Published on Meta-World v2 and in pictures with shadows. LV-Rep from pixels is "
        "muLV-Rep.",
    ),
    Target(
        name="diffsr-generation",
        title="Next frames drawn from noise by Diff-SR's score function",
        paper=f"{DIFFSR}, generation figure",
        kind="generation",
        protocol="metaworld",
        steps=1_000_000,
        tasks=MANIPULATION,
        labels=("diffsr",),
        seeds=1,
        statistics=("last",),
        measure="success",
        tool="runners.generate",
        file="generation.png",
    ),
    Target(
        name="qvpo-table1",
        title="Return on MuJoCo",
        paper=f"{QVPO}, Table 1",
        kind="table",
        protocol="qvpo",
        steps=1_000_000,
        tasks=GYM,
        labels=POLICIES,
        seeds=5,
        statistics=("best", "last"),
        published="CGPO Table 1",
        methods=QVPO_METHODS,
        note=QVPO_NOTE,
    ),
    Target(
        name="qvpo-curves",
        title="Learning curves on MuJoCo",
        paper=f"{QVPO}, figure 3",
        kind="curves",
        protocol="qvpo",
        steps=1_000_000,
        tasks=GYM,
        labels=POLICIES,
        seeds=5,
        statistics=("best", "last"),
        published="CGPO Table 1",
        methods=QVPO_METHODS,
        note=f"{QVPO_NOTE} The paper's curves are of training episodes, these of evaluations.",
    ),
    Target(
        name="qvpo-toy",
        title="QVPO's actions on a bandit with three peaks",
        paper=f"{QVPO}, figure 2",
        kind="bandit",
        protocol="toy",
        steps=1_000,
        tasks=("toy/bandit",),
        labels=("qvpo@entropy_samples=0,eval_samples=1", "qvpo@eval_samples=1"),
        seeds=3,
        statistics=("last",),
        tool="runners.probe",
        file="actions.csv",
        note="The paper's reward function is not published, so its actions cannot be compared.",
    ),
    _ablation(
        "qvpo-entropy-steps",
        "Entropy term and diffusion steps",
        "figure 4",
        (
            "qvpo",
            "qvpo@entropy_samples=0",
            "qvpo@diffusion_steps=100",
            "qvpo@diffusion_steps=100,entropy_samples=0",
        ),
        "QVPO without options: 20 diffusion steps, with the entropy term. The paper used Ant-v3.",
    ),
    _ablation(
        "qvpo-kb-kt",
        "Actions to choose from, K_b and K_t",
        "figure 5",
        (
            "qvpo@behavior_samples=1,target_samples=1",
            "qvpo@target_samples=1",
            "qvpo",
            "qvpo@target_samples=4",
            "qvpo@behavior_samples=20",
        ),
        "K_b (behavior_samples) while exploring, K_t (target_samples) in the target; QVPO without "
        "options: K_b = 4, K_t = 2. "
        "The task of the paper's figure was not read; Ant is that of the figure before it.",
    ),
)

TARGETS: dict[str, Target] = {target.name: target for target in _ALL}

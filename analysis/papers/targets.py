"""The papers' tables and figures as data: what each is, and which runs it needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from analysis.data.experiment import Measure, RunKey
from runners.cells.protocols import DIFFSR, MBBL_LOCOMOTION, METAWORLD, POMDP, QVPO, TOY, Protocol

Kind = Literal["table", "curves", "hours", "generation", "bandit"]
PUBLISHED_AS = {"ppo@spo": "spo", "dipo@write_back=false": "dipo"}
"""What published.csv calls the labels that it does not call by their algorithm.

DIPO's numbers come from code that never writes the improved actions back.
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table or figure of a paper.

    Attributes:
        name: what it is called on the command line.
        title: what it shows.
        paper: where it was published.
        kind: how it is drawn.
        protocol: the protocol of the runs.
        tasks: task ids.
        labels: method labels, `<algo>[@<variant>]`; each runs on each task.
        seeds: number of seeds.
        statistics: what the value of a run is, names in `RUN_STATISTICS`; the one that the
            paper reports comes first.
        measure: what an evaluation measures.
        published: the source in published.csv, empty if none of its numbers are known.
        methods: the methods of that source to show, by their names in published.csv; empty: all.
        tool: module that makes `file` in a run directory, where the figure needs more than the
            files of the runs.
        file: see `tool`.
        note: what a reader has to know.
    """

    name: str
    title: str
    paper: str
    kind: Kind
    protocol: Protocol
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

    @property
    def steps(self) -> int:
        """Length of a run in environment steps."""
        return self.protocol.steps

    def cells(self) -> Iterator[RunKey]:
        """Go through the cells that the target needs, tasks outermost."""
        for task in self.tasks:
            for label in self.labels:
                for seed in range(self.seeds):
                    yield task, label, seed

    def needs(self) -> str:
        """Say on one line what the target needs."""
        parts = [
            f"{len(values)} {noun}{'' if len(values) == 1 else 's'}"
            for noun, values in (("method", self.labels), ("task", self.tasks))
        ]
        seeds = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        protocol = f"protocol {self.protocol.name}, {self.steps:,} steps"
        return f"{' × '.join([*parts, seeds])} = {len(list(self.cells()))} cells ({protocol})"


def published_method(label: str) -> str:
    """Return what published.csv calls a method label; a variant has no name there."""
    return PUBLISHED_AS.get(label, label)


def published_label(method: str) -> str:
    """Return the label of the runs that a method's published numbers are compared with."""
    return next((label for label, name in PUBLISHED_AS.items() if name == method), method)


DIFFSR_PAPER = "Diff-SR, Shribak et al. 2024, arXiv 2406.16121"
QVPO_PAPER = "QVPO, Ding et al. 2024, arXiv 2405.16173"

POLICIES = ("qvpo", "sac", "td3", "ppo", "ppo@spo", published_label("dipo"), "qsm")
QVPO_NOTE = (
    "The numbers of QVPO's table were read in CGPO's, whose authors are the same; they are of the "
    "v3 tasks. The best evaluation of a run is chosen after the fact."
)


def _diffsr(name: str, title: str, where: str, kind: Kind, tasks: tuple[str, ...]) -> Target:
    return Target(
        name=name,
        title=title,
        paper=f"{DIFFSR_PAPER}, {where}",
        kind=kind,
        protocol=DIFFSR,
        tasks=tasks,
        labels=("diffsr", "lvrep", "polygrad", "sac", "ppo")
        if kind != "hours"
        else ("diffsr", "lvrep", "polygrad"),
        seeds=DIFFSR.seeds,
        statistics=("last4",),
        published="Diff-SR hours" if kind == "hours" else "Diff-SR Table 1",
        note="Which tasks the main figure shows and which the appendix was not read."
        if kind == "curves"
        else "",
    )


def _qvpo(name: str, title: str, where: str, kind: Kind, note: str) -> Target:
    return Target(
        name=name,
        title=title,
        paper=f"{QVPO_PAPER}, {where}",
        kind=kind,
        protocol=QVPO,
        tasks=QVPO.tasks,
        labels=POLICIES,
        seeds=QVPO.seeds,
        statistics=("best", "last"),
        published="CGPO Table 1",
        methods=tuple(map(published_method, POLICIES)),
        note=note,
    )


def _ablation(name: str, title: str, figure: str, labels: tuple[str, ...], note: str) -> Target:
    return Target(
        name=name,
        title=title,
        paper=f"{QVPO_PAPER}, {figure}",
        kind="curves",
        protocol=QVPO,
        tasks=("gym/Ant-v5",),
        labels=labels,
        seeds=QVPO.seeds,
        statistics=("best", "last"),
        note=note,
    )


_ALL = (
    _diffsr("diffsr-table1", "Return on MBBL", "Table 1", "table", DIFFSR.tasks),
    _diffsr(
        "diffsr-curves", "Learning curves on MBBL", "learning curves", "curves", MBBL_LOCOMOTION
    ),
    _diffsr(
        "diffsr-curves-appendix",
        "Learning curves on MBBL, further tasks",
        "learning curves, appendix",
        "curves",
        tuple(task for task in DIFFSR.tasks if task not in MBBL_LOCOMOTION),
    ),
    _diffsr("diffsr-runtime", "Run time on MBBL", "run-time figure", "hours", DIFFSR.tasks),
    Target(
        name="diffsr-table3",
        title="Return with masked velocities",
        paper=f"{DIFFSR_PAPER}, Table 3",
        kind="table",
        protocol=POMDP,
        tasks=POMDP.tasks,
        labels=("diffsr", "lvrep", "polygrad", "sac"),
        seeds=POMDP.seeds,
        statistics=("last4",),
        published="Diff-SR Table 3",
    ),
    Target(
        name="diffsr-metaworld",
        title="Success on Meta-World from pixels",
        paper=f"{DIFFSR_PAPER}, Meta-World figure",
        kind="curves",
        protocol=METAWORLD,
        tasks=METAWORLD.tasks,
        labels=("diffsr", "lvrep", "drqv2"),
        seeds=METAWORLD.seeds,
        statistics=("last", "best"),
        measure="success",
        published="Diff-SR Meta-World",
        note="Published on Meta-World v2 and in pictures with shadows. LV-Rep from pixels is "
        "muLV-Rep.",
    ),
    Target(
        name="diffsr-generation",
        title="Next frames drawn from noise by Diff-SR's score function",
        paper=f"{DIFFSR_PAPER}, generation figure",
        kind="generation",
        protocol=METAWORLD,
        tasks=METAWORLD.tasks,
        labels=("diffsr",),
        seeds=1,
        statistics=("last",),
        measure="success",
        tool="runners.generate",
        file="generation.png",
    ),
    _qvpo("qvpo-table1", "Return on MuJoCo", "Table 1", "table", QVPO_NOTE),
    _qvpo(
        "qvpo-curves",
        "Learning curves on MuJoCo",
        "figure 3",
        "curves",
        f"{QVPO_NOTE} The paper's curves are of training episodes, these of evaluations.",
    ),
    Target(
        name="qvpo-toy",
        title="QVPO's actions on a bandit with three peaks",
        paper=f"{QVPO_PAPER}, figure 2",
        kind="bandit",
        protocol=TOY,
        tasks=TOY.tasks,
        labels=("qvpo@entropy_samples=0,eval_samples=1", "qvpo@eval_samples=1"),
        seeds=TOY.seeds,
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

"""The claims of the papers, and the suite's own, as data: what is said, where, how it is tested."""

from collections.abc import Sequence
from functools import cache

from analysis.data.published import Published, numbers
from analysis.papers.claim import SECONDS, Claim, ClaimTest, Side
from analysis.papers.targets import DIFFSR_PAPER, QVPO_PAPER, published_label, published_method
from runners.cells.protocols import (
    DIFFSR,
    DMC,
    MBBL_LOCOMOTION,
    METAWORLD,
    POMDP,
    POMDP_LOCOMOTION,
    QVPO,
    Protocol,
)

DIPO = published_label("dipo")
CGPO = "numbers from CGPO Table 1 (Ding et al. 2026, the authors of QVPO)"
V3 = "Published on v3 tasks, whose rewards and models differ but for HalfCheetah; tested on v5."
TUNED = "The paper's Diff-SR has the best of five feature-update ratios for each task."


class UnknownClaim(ValueError):
    """A claim that is not in the list; the message is one line for the user."""


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim, in the order in which they are shown."""
    return (
        *_diffsr(),
        *_diffsr_partly_observed(),
        *_lvrep(),
        *_qvpo(),
        _dipo(),
        _polygrad(),
        *_own(),
    )


def choose(names: Sequence[str]) -> list[Claim]:
    """Return the claims with these names; all of them without a name.

    Raises:
        UnknownClaim: there is no claim of a name.
    """
    known = {claim.name: claim for claim in claims()}
    for name in names:
        if name not in known:
            raise UnknownClaim(f"unknown claim '{name}'; expected some of {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def _diffsr() -> list[Claim]:
    table = "Diff-SR Table 1"
    return [
        _claim(
            name="diffsr-over-lvrep",
            text="Diff-SR returns more than LV-Rep on Ant-ET and Walker2D-ET (+90 %, +48 %).",
            source=f"{DIFFSR_PAPER}, text and Table 1 (read from its picture)",
            protocol=DIFFSR,
            tests=_more(table, "diffsr", ["lvrep"], ("mbbl/Ant-ET", "mbbl/Walker2D-ET"), "last4"),
            note=TUNED,
        ),
        _claim(
            name="diffsr-over-baselines",
            text="Diff-SR returns more than SAC, LV-Rep and PolyGRAD on HalfCheetah and the three "
            "tasks Ant-ET, Hopper-ET and Walker2D-ET.",
            source=f"{DIFFSR_PAPER}, Table 1 (read from its picture)",
            protocol=DIFFSR,
            tests=_more(table, "diffsr", ["sac", "lvrep", "polygrad"], MBBL_LOCOMOTION, "last4"),
            note=f"{TUNED} Its SAC column is MBBL's, in another simulator.",
        ),
        _claim(
            name="diffsr-faster-than-polygrad",
            text="Diff-SR trains about four times faster than PolyGRAD; tested as at least three "
            "times, on each of the ten MBBL tasks.",
            source=f"{DIFFSR_PAPER}, text and run-time figure (bars read to about 0.15 h)",
            protocol=DIFFSR,
            tests=[
                ClaimTest(
                    task=task,
                    side=Side("polygrad", SECONDS, _number("Diff-SR hours", task, "polygrad")),
                    other=Side("diffsr", SECONDS, _number("Diff-SR hours", task, "diffsr")),
                    effect="ratio",
                    above=3.0,
                )
                for task in _tasks("Diff-SR hours")
            ],
            note="The paper's text and figure differ: the bars give 4.2 to 7.4 times, on a GPU.",
        ),
    ]


def _diffsr_partly_observed() -> list[Claim]:
    figure = "Diff-SR Meta-World"
    curves = [x for x in numbers() if x.source == figure and x.method == "diffsr"]
    return [
        _claim(
            name="diffsr-masked-over-polygrad",
            text="Without velocities, Diff-SR returns more than PolyGRAD on HalfCheetah, Walker, "
            "Ant and Hopper.",
            source=f"{DIFFSR_PAPER}, Table 3 (read from its picture)",
            protocol=POMDP,
            tests=_more("Diff-SR Table 3", "diffsr", ["polygrad"], POMDP_LOCOMOTION, "last4"),
            note="The paper's Diff-SR has the best learning rates and ratios for each task.",
        ),
        _claim(
            name="diffsr-metaworld",
            text="From pixels, Diff-SR succeeds in more than 90 % of the episodes on seven of "
            "eight Meta-World tasks.",
            source=f"{DIFFSR_PAPER}, text and Meta-World figure (digitised, to about 3 points)",
            protocol=METAWORLD,
            tests=_successful("diffsr", [x for x in curves if x.steps == 980_000]),
            needed=7,
            note="Published on Meta-World v2 with shadows; tested on v3 without.",
        ),
    ]


def _lvrep() -> list[Claim]:
    bars = [x for x in numbers() if x.source == "muLV-Rep Meta-World"]
    return [
        _claim(
            name="lvrep-over-sac",
            text="LV-Rep returns more than SAC on HalfCheetah, Ant-ET, Hopper-ET and Walker2D-ET.",
            source="LV-Rep, arXiv 2212.08765, Table 1",
            protocol=DIFFSR,
            tests=_more("LV-Rep Table 1", "lvrep", ["sac"], MBBL_LOCOMOTION, "last4"),
            note="The SAC column is MBBL's; the paper's own SAC curves end elsewhere.",
        ),
        _claim(
            name="lvrep-over-sac-dmcontrol",
            text="LV-Rep returns more than SAC on four DMControl tasks from states.",
            source="LV-Rep, arXiv 2212.08765, Table 2",
            protocol=DMC,
            tests=_more("LV-Rep Table 2", "lvrep", ["sac"], _tasks("LV-Rep Table 2"), "last4"),
        ),
        _claim(
            name="mulvrep-metaworld",
            text="From pixels, muLV-Rep succeeds in more than 90 % of the episodes on 33 of 50 "
            "Meta-World tasks.",
            source="muLV-Rep, arXiv 2311.12244, project page and Meta-World figure (digitised)",
            protocol=METAWORLD,
            tests=_successful("lvrep", bars),
            needed=33,
            note="Published on Meta-World v2 with shadows; tested on v3 without.",
        ),
    ]


def _qvpo() -> list[Claim]:
    baselines = ["sac", "td3", "ppo", "ppo@spo", DIPO, "qsm"]
    twin = Side("qvpo@entropy_samples=0,diffusion_steps=100", "best")
    return [
        _claim(
            name="qvpo-over-baselines",
            text="QVPO returns more than SAC, TD3, PPO, SPO, DIPO and QSM on all five tasks.",
            source=f"{QVPO_PAPER} (abstract; its tables were not read), {CGPO}",
            protocol=QVPO,
            tests=_more("CGPO Table 1", "qvpo", baselines, QVPO.tasks, "best"),
            note=f"{V3} QVPO picks the best of 32 actions when evaluated; Gaussian policies do "
            "not. The table itself has TD3 above QVPO on Humanoid.",
        ),
        _claim(
            name="qvpo-entropy-saves-steps",
            text="With the entropy term, 20 diffusion steps come close to 100 steps without it; "
            "tested on Ant as within 10 %.",
            source=f"{QVPO_PAPER}, ablation figure (on Ant-v3, read in a summary, without numbers)",
            protocol=QVPO,
            tests=[_alike("gym/Ant-v5", Side("qvpo", "best"), twin)],
            note=V3,
        ),
        _claim(
            name="qvpo-like-sac",
            text="QVPO and SAC return the same on HalfCheetah, Walker2d and Humanoid; tested as "
            "within 10 %.",
            source="FMER, comparison on MuJoCo v5 (read in a summary): QVPO run by others",
            protocol=QVPO,
            tests=[
                _alike(
                    task,
                    Side("qvpo", "best", _number("FMER", task, "qvpo")),
                    Side("sac", "best", _number("FMER", task, "sac")),
                )
                for task in _tasks("FMER")
            ],
            note="These numbers do not show what qvpo-over-baselines says.",
        ),
    ]


def _dipo() -> Claim:
    return _claim(
        name="dipo-over-baselines",
        text="DIPO returns more than SAC, TD3 and PPO on all five tasks.",
        source=f"DIPO, Yang et al. 2023, arXiv 2305.13122 (abstract: superior on MuJoCo; its "
        f"tables were not read), {CGPO}",
        protocol=QVPO,
        tests=_more("CGPO Table 1", DIPO, ["sac", "td3", "ppo"], QVPO.tasks, "best"),
        note=f"{V3} CGPO ran DIPO with 20 steps, 100 here; its released code never writes the "
        "improved actions back, and neither does the variant compared here. The table has SAC and "
        "TD3 above DIPO on HalfCheetah, TD3 on Humanoid.",
    )


def _polygrad() -> Claim:
    tasks = ("gym/Hopper-v5", "gym/HalfCheetah-v5", "gym/Walker2d-v5")
    return _claim(
        name="polygrad-over-ppo",
        text="PolyGRAD returns more than PPO on Hopper, HalfCheetah and Walker2d after 1.5 million "
        "steps.",
        source="Foffano et al., Adversarial Diffusion for Robust RL, Table 1 (PolyGRAD run from "
        "its repository; the tables of its own paper were not read)",
        protocol=QVPO.with_steps(1_500_000),
        tests=_more("AD-RRL Table 1", "polygrad", ["ppo"], tasks, "last"),
        note="The table does not say which version of the tasks, nor which evaluations.",
    )


def _own() -> list[Claim]:
    curves = ("gym/Ant-v5", "gym/HalfCheetah-v5", "gym/Hopper-v5", "gym/Walker2d-v5")
    return [
        _claim(
            name="best-flatters-td3",
            text="Taking TD3's best evaluation instead of its last adds at least 2 % on Ant, "
            "HalfCheetah, Hopper and Walker2d.",
            source="this suite, from the learning curves that the authors of TD3 keep in "
            "sfujim/TD3 (+2 to +11 %)",
            protocol=QVPO,
            tests=[
                ClaimTest(
                    task=task,
                    side=Side("td3", "best", _number("TD3 curves", task, "td3", "best")),
                    other=Side("td3", "last", _number("TD3 curves", task, "td3", "last")),
                    effect="ratio",
                    above=1.02,
                )
                for task in curves
            ],
        ),
        _claim(
            name="bfloat16-keeps-the-return",
            text="Matrix products in bfloat16 leave SAC's and Diff-SR's return on HalfCheetah "
            "within 10 % of those in float32.",
            source="this suite, whose methods use them by default",
            protocol=DIFFSR,
            tests=[
                _alike(
                    "mbbl/HalfCheetah",
                    Side(algo, "last4"),
                    Side(f"{algo}@precision=float32", "last4"),
                )
                for algo in ("sac", "diffsr")
            ],
        ),
    ]


def _claim(
    *,
    name: str,
    text: str,
    source: str,
    protocol: Protocol,
    tests: Sequence[ClaimTest],
    needed: int | None = None,
    note: str = "",
) -> Claim:
    """Make a claim of which all tests must hold if `needed` does not say otherwise."""
    return Claim(
        name=name,
        text=text,
        source=source,
        protocol=protocol,
        tests=tuple(tests),
        needed=len(tests) if needed is None else needed,
        note=note,
    )


def _more(
    source: str, label: str, others: Sequence[str], tasks: Sequence[str], value: str
) -> list[ClaimTest]:
    """Test that a method returns more than each of some others on each of some tasks."""

    def side(task: str, name: str) -> Side:
        return Side(name, value, _number(source, task, published_method(name)))

    return [
        ClaimTest(task=task, side=side(task, label), other=side(task, other))
        for task in tasks
        for other in others
    ]


def _successful(label: str, published: Sequence[Published]) -> list[ClaimTest]:
    """Test that a method succeeds in more than 90 % of the episodes of each published task."""
    return [
        ClaimTest(
            task=number.task,
            side=Side(label, "last", number),
            effect="level",
            above=0.9,
            measure="success",
        )
        for number in published
    ]


def _alike(task: str, side: Side, other: Side) -> ClaimTest:
    """Test that two methods return the same to within 10 %."""
    return ClaimTest(task=task, side=side, other=other, effect="ratio", above=0.9, below=1.1)


def _tasks(source: str) -> list[str]:
    """Return the tasks of a table, in its order."""
    return list(dict.fromkeys(number.task for number in numbers() if number.source == source))


def _number(source: str, task: str, method: str, statistic: str | None = None) -> Published | None:
    """Return the first number that a source prints for a method on a task, None if none."""
    found = (
        number
        for number in numbers()
        if (number.source, number.task, number.method) == (source, task, method)
        and statistic in (None, number.statistic)
    )
    return next(found, None)

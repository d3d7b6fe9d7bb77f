"""The report as one HTML file that needs no network, no server and no script to be read.

All text and all charts stand in the page; its script adds the filters, the sorting of tables and
the opening of folded parts for print. A policy in the page forbids everything else: nothing is
loaded, and no text of a run can become a script.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from xml.etree.ElementTree import Element

from matplotlib.colors import to_rgb

from analysis.data.experiment import Experiment
from analysis.data.scores import Scores
from analysis.drawing import style
from analysis.drawing.tables import Table
from analysis.html import results, sections, svg
from analysis.html.markup import Child, checkbox, element, write
from analysis.html.methods import Method, list_methods
from analysis.papers.claim_list import claims
from analysis.papers.claim_tests import decide

THEMES = {"light": ("#FFFFFF", 3.0), "dark": ("#15181D", 4.5)}
"""The background of each theme, as in style.css, and the least contrast of a line against it.

WCAG 2.2, criterion 1.4.11, asks for 3; thin lines on black need more to look the same.
"""


def page(experiment: Experiment, scores: Scores, documents: Mapping[str, Sequence[Table]]) -> str:
    """Write the page.

    Args:
        experiment: the runs.
        scores: their normalised scores.
        documents: the tables of the report by topic, as `analysis.report` writes them: returns,
            runtime, aggregate, and success where a task reports it.

    Returns:
        The file's text; equal files of an experiment give equal text.
    """
    methods = list_methods(experiment)
    values = [*documents.get("success", ()), *documents["returns"]]
    [aggregate] = documents["aggregate"]
    findings = decide(claims(), [experiment])
    parts = {
        "Overview": sections.overview(experiment, methods),
        "Runs that are not done": sections.unfinished(experiment, methods),
        "Learning curves": results.learning_curves(experiment, methods),
        "Results": results.results(experiment, methods, values),
        "Run time": results.run_times(experiment, methods, documents["runtime"]),
        "Aggregates": results.aggregates(experiment, scores, methods, aggregate),
        "Performance profiles": results.profiles(experiment, scores, methods),
        "Claims": sections.claim_verdicts(findings),
        "Manifests": sections.manifests(experiment, methods),
        "How to reproduce": sections.reproduce(experiment),
    }
    title = f"Experiment {experiment.name}"
    aside = element("aside", _contents(parts), *_filters(experiment, methods))
    main = element("main", *map(_section, parts, parts.values()), id="main", tabindex="-1")
    body = [
        svg.definitions(experiment.labels),
        element("header", element("h1", title), sections.notice(experiment, role="note")),
        element("div", aside, main, class_="columns"),
    ]
    look, script = _template("style.css") + _colours(methods), _template("script.js")
    return Template(_template("page.html")).substitute(
        policy=escape(_policy(look, script)),
        title=escape(title),
        style=look,
        body="\n".join(write(node) for node in body),
        script=script,
    )


def readable(color: str, theme: str) -> str:
    """Mix a colour with black or white until it stands out from the theme's background."""
    background, least = THEMES[theme]
    toward = 1 if _luminance(background) < 0.5 else -1
    shades = (style.shade(color, toward * step / 20) for step in range(21))
    return next(shade for shade in shades if contrast(shade, background) >= least)


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours by WCAG 2.2, from 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    """Return the relative luminance by WCAG 2.2, from 0 for black to 1 for white."""
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in to_rgb(color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _section(title: str, children: Sequence[Child]) -> Element:
    name = _anchor(title)
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _contents(titles: Iterable[str]) -> Element:
    links = [element("li", element("a", title, href=f"#{_anchor(title)}")) for title in titles]
    heading = element("h2", "Contents", id="contents")
    return element("nav", heading, element("ul", *links), aria_labelledby="contents")


def _filters(experiment: Experiment, methods: Sequence[Method]) -> list[Element]:
    """Make the filters, which stay hidden until the script works, and a line on what they show."""
    suites = {task: task.split("/")[0] for task in experiment.tasks}
    groups = {
        "suite": [checkbox("suite", suite, suite) for suite in dict.fromkeys(suites.values())],
        "task": [
            checkbox("task", str(number), task, data_suite=suite)
            for number, (task, suite) in enumerate(suites.items())
        ],
        "method": [
            checkbox("method", str(x.number), svg.swatch(x.label, x.class_), x.name)
            for x in methods
        ],
    }
    fields = [
        element(
            "fieldset",
            element("legend", f"{name.capitalize()}s"),
            element("div", _choice("All", name), _choice("None", name), class_="choices"),
            *boxes,
        )
        for name, boxes in groups.items()
    ]
    form = element("form", *fields, id="filters", aria_label="Filters")
    summary = element("summary", "Filters")
    return [
        element("p", role="status", id="shown"),
        element("details", summary, form, class_="filters", data_script=True, hidden=True),
    ]


def _choice(text: str, group: str) -> Element:
    """Return a button that ticks all boxes of a group, or none."""
    rest = element("span", f" {group}s", class_="unseen")
    return element("button", text, rest, type="button", data_group=group, data_choice=text.lower())


def _colours(methods: Sequence[Method]) -> str:
    """Return the colour of each method in both themes; dark only on a screen, as paper is white."""
    light, dark = (
        "\n".join(
            f".{method.class_} {{ --color: "
            f"{readable(style.method_style(method.label).color, theme)}; }}"
            for method in methods
        )
        for theme in ("light", "dark")
    )
    return f"\n{light}\n\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _policy(look: str, script: str) -> str:
    """Return what the browser may load and run: only the page's own style and script."""
    rules = [
        "default-src 'none'",
        f"style-src {_hash(look)}",
        f"script-src {_hash(script)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(rules)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _template(name: str) -> str:
    return files("analysis.html").joinpath("template", name).read_text(encoding="utf-8")

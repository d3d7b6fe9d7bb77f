"""The HTML report: its bytes, and what a real browser makes of it."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from analysis import report
from analysis.data.load import load
from analysis.data.scores import normalised_scores
from analysis.drawing import curves
from analysis.html import charts, svg
from analysis.html import page as html
from analysis.html.methods import list_methods
from tests.helpers.browser import Browser, problem
from tests.helpers.experiments import write_experiment, write_run

TASKS = ["mbbl/HalfCheetah", "mbbl/Pendulum", "metaworld/drawer-close@size=64"]
CHEETAH, PENDULUM, DRAWER = TASKS
ATTACK = "<script>window.attacked = 1</script> & <img src=x onerror='window.attacked = 2'> \"q\""
METHODS = ["diffsr", "qvpo@entropy_samples=0", "sac"]
WIDE, NARROW = 1280, 360


def build(folder: Path) -> Path:
    experiment = load(folder)
    scores = normalised_scores(experiment)
    tables = report.all_tables(experiment, scores)
    (folder / "report").mkdir(exist_ok=True)
    page = folder / "report" / "index.html"
    page.write_text(html.page(experiment, scores, tables), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three tasks of two suites, and texts that try to be markup wherever a run has a text."""
    name = f"mixed {ATTACK}"
    folder = write_experiment(
        tmp_path_factory.mktemp("results") / "mixed", name=name, note=f"</style>{ATTACK}"
    )
    counts = [(0, 0), (2, 1), (2, 2)]
    for seed in range(2):
        for task, base in ((PENDULUM, 0.0), (CHEETAH, 900.0)):
            write_run(folder, task, "sac", seed, [base - 100, base, base + seed], title="SAC")
            write_run(folder, task, METHODS[1], seed, [base, base, base + 50], title="QVPO")
        write_run(folder, DRAWER, "sac", seed, [1.0, 2.0, 3.0], title="SAC", success=counts)
    write_run(folder, PENDULUM, "diffsr", 0, [7.0, 7.0, 7.0], title=ATTACK)
    write_run(folder, PENDULUM, "diffsr", 1, [7.0], status="failed", reason=ATTACK, title=ATTACK)
    other = {"status": "unsupported", "reason": "no pixels", "title": ATTACK}
    write_run(folder, CHEETAH, "diffsr", 0, [], **other)
    torn = write_run(folder, CHEETAH, "diffsr", 1, [1.0])
    (torn / "run.json").write_text('{"status": "done", ')
    return folder


@pytest.fixture(scope="module")
def page_file(mixed):
    return build(mixed)


@pytest.fixture(scope="module")
def browser():
    if problem():
        pytest.skip(problem())
    with Browser() as window:
        yield window


@pytest.fixture
def page(browser, page_file):
    """The page of `mixed`, freshly opened in a wide window."""
    browser.media()
    browser.resize(WIDE)
    browser.open(page_file.as_uri())
    return browser


def visible(page: Browser, selector: str) -> int:
    """How many elements of a selector take up room."""
    script = """
        const seen = (node) => node.getClientRects().length && node.checkVisibility();
        return [...document.querySelectorAll(arguments[0])].filter(seen).length;
    """
    return page.run(script, selector)


def tagged(page: Browser, kind: str, number: int) -> int:
    """How many of the elements of a task or method that are not folded are to be seen."""
    return visible(page, f"main [data-{kind}='{number}']")


def column(page: Browser, table: str, number: int) -> list[str]:
    script = """
        const rows = document.querySelector(arguments[0]).tBodies[0].rows;
        return [...rows].map((row) => row.cells[arguments[1]].textContent);
    """
    return page.run(script, table, number)


def focused(page: Browser, selector: str) -> bool:
    return page.run("return document.activeElement.matches(arguments[0])", selector)


def tab_to(page: Browser, selector: str) -> None:
    for _ in range(80):
        if focused(page, selector):
            return
        page.press("Tab")
    raise AssertionError(f"the Tab key does not reach {selector}")


def test_the_page_opens_without_an_error_and_asks_the_network_for_nothing(page, page_file):
    assert page.log("browser") == []
    urls = re.findall(
        r'"Network\.requestWillBeSent".*?"url":"([^"]*)"', str(page.log("performance"))
    )
    assert page_file.as_uri() in urls
    assert all(url == page_file.as_uri() or url.startswith("data:") for url in urls)


def test_texts_of_runs_stay_texts(page):
    assert page.run("return window.attacked ?? null") is None
    assert page.run("return document.scripts.length") == 1
    assert page.run("return document.images.length") == 0
    title = f"Experiment mixed {ATTACK}"
    assert page.run("return [document.title, document.querySelector('h1').textContent]") == [
        title,
        title,
    ]
    assert column(page, "#runs-that-are-not-done table", 5).count(ATTACK) == 1
    heading = page.run("return document.querySelector('#overview th:nth-child(2)').textContent")
    assert heading == ATTACK
    assert f"</style>{ATTACK}" in page.run("return document.querySelector('main').textContent")


def test_no_text_can_run_even_where_escaping_fails(page):
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=attacked=3>')")
    page.run(
        "const script = document.createElement('script'); script.textContent = 'attacked = 4';"
        "document.body.append(script)"
    )
    assert page.run("return window.attacked ?? null") is None
    assert any("Content Security Policy" in entry["message"] for entry in page.log("browser"))


def test_cells_that_are_not_done_show_their_reasons(page):
    rows = page.run(
        "return [...document.querySelectorAll('#runs-that-are-not-done tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [PENDULUM, "diffsr", "1", "failed", "1", ATTACK] in rows
    assert [CHEETAH, "diffsr", "0", "unsupported", "0", "no pixels"] in rows
    [unreadable] = [row for row in rows if row[3] == "unreadable"]
    assert "run.json is not JSON" in unreadable[5]
    assert {row[3] for row in rows} == {"failed", "unsupported", "unreadable", "missing"}


def test_filters_by_click(page):
    assert page.run("return document.getElementById('shown').textContent") == (
        "Shown: 3 of 3 tasks, 3 of 3 methods."
    )
    before = {number: tagged(page, "method", number) for number in range(3)}
    assert min(before.values()) > 8
    page.click("#filters input[name=method][value='2']")
    assert {number: tagged(page, "method", number) for number in range(3)} == {**before, 2: 0}
    page.click("#filters input[name=suite][value=metaworld]")
    assert [bool(tagged(page, "task", number)) for number in range(3)] == [True, True, False]
    assert visible(page, "#filters input[name=task]") == 2
    page.click("#filters input[name=task][value='1']")
    assert [bool(tagged(page, "task", number)) for number in range(3)] == [True, False, False]
    assert page.run("return document.getElementById('shown').textContent") == (
        "Shown: 1 of 3 tasks, 2 of 3 methods."
    )
    page.click("#filters button[data-group=method][data-choice=none]")
    assert sum(tagged(page, "method", number) for number in range(3)) == 0
    for group in ("suite", "task", "method"):
        page.click(f"#filters button[data-group={group}][data-choice=all]")
    assert {number: tagged(page, "method", number) for number in range(3)} == before


def test_bars_move_up_where_others_are_hidden(page):
    places = """
        return [...document.querySelectorAll("#run-time svg.chart:first-of-type")].slice(0, 1)
          .flatMap((chart) => [...chart.querySelectorAll("g[data-method]")])
          .filter((row) => !row.hasAttribute("hidden")).map((row) => row.getAttribute("transform"));
    """
    before = page.run(places)
    page.click("#filters input[name=method][value='0']")
    assert page.run(places) == before[:2]
    page.click("#filters input[name=method][value='0']")
    assert page.run(places) == before


def test_lines_can_be_left_out(page):
    assert visible(page, ".seed") > 0
    page.click("input[name=lines][value=seeds]")
    assert visible(page, ".seed") == 0
    assert visible(page, ".mean") > 0


def test_everything_works_by_keyboard(page):
    page.press("Tab")
    assert focused(page, ".skip")
    tab_to(page, "#filters input[name=task][value='1']")
    assert tagged(page, "task", 1) > 0
    page.press("Space")
    assert tagged(page, "task", 1) == 0
    tab_to(page, "#overview thead th:first-child button")
    page.press("Enter", "Enter")
    assert column(page, "#overview table", 0) == [DRAWER, PENDULUM, CHEETAH]
    tab_to(page, "#manifests summary")
    assert visible(page, "#manifests details details") == 0
    page.press("Enter")
    assert visible(page, "#manifests details details") > 0


def test_the_focus_goes_through_the_page_in_order_and_can_be_seen(page):
    script = """
        const node = document.activeElement, before = window.before;
        window.before = node;
        const order = !before || before.compareDocumentPosition(node) & 4;
        const style = getComputedStyle(node);
        return [node === document.body, Boolean(order), parseFloat(style.outlineWidth) >= 2
          && style.outlineStyle !== "none"];
    """
    steps = []
    for _ in range(120):
        page.press("Tab")
        end, *state = page.run(script)
        if end:
            break
        steps.append(state)
    assert len(steps) > 40
    assert all(state == [True, True] for state in steps)


def test_tables_sort_by_click(page):
    table, head = "#overview table", "#overview table thead th:first-child"
    for direction, expected in (("ascending", TASKS), ("descending", TASKS[::-1])):
        page.click(f"{head} button")
        assert page.run(f'return document.querySelector("{head}").ariaSort') == direction
        assert column(page, table, 0) == expected


def test_numbers_sort_as_numbers_with_empty_cells_last(page):
    table = "#results .scroll[aria-label^='Return'] table"
    numbers = ["50.0 ± 0.0 (n=2)", "950.0 ± 0.0 (n=2)"]
    for expected in (numbers, numbers[::-1]):
        page.click(f"{table} thead th:nth-child(3) button")
        assert column(page, table, 2) == [*expected, "— (missing)"]


def test_a_narrow_window_does_not_scroll_sideways(page):
    page.resize(NARROW)
    page.run("location.reload()")
    assert page.run("return innerWidth") == NARROW
    assert visible(page, ".filters > summary") == 1
    assert visible(page, "#filters") == 0
    page.click(".filters > summary")
    page.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.run("return document.documentElement.scrollWidth") <= NARROW
    wide = "[...document.querySelectorAll('.scroll')].filter((x) => x.scrollWidth > x.clientWidth)"
    assert page.run(f"return {wide}.length") > 3
    assert visible(page, "svg.chart") > 8


def test_print_shows_all_and_no_controls(page):
    folded = "return document.querySelectorAll('details:not([open])').length"
    closed = page.run(folded)
    assert closed > 10
    page.media("print", prefers_color_scheme="dark")
    # Without the script's help, as a page that is printed from elsewhere.
    assert visible(page, "#manifests dl") == page.run(
        "return document.querySelectorAll('#manifests dl').length"
    )
    assert visible(page, "form, input, nav, .skip, #shown") == 0
    assert (
        page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    page.media()
    page.run(
        "addEventListener('beforeprint', () => { window.stillFolded = "
        "document.querySelectorAll('details:not([open])').length; })"
    )
    assert page.print().startswith(b"%PDF")
    assert page.run("return window.stillFolded") == 0
    assert page.run(folded) == closed


def test_print_says_what_the_filters_leave_out(page):
    page.click("#filters input[name=method][value='0']")
    page.media("print")
    assert visible(page, "#shown") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out(page, scheme):
    page.media(prefers_color_scheme=scheme)
    page.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    script = """
        const found = [];
        const color = (text) => text.match(/[\\d.]+/g).map(Number);
        function background(node) {
          for (let up = node; up; up = up.parentElement) {
            const paint = color(getComputedStyle(up).backgroundColor);
            if (paint.length === 3 || paint[3] > 0) return paint.slice(0, 3);
          }
          return [255, 255, 255];
        }
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let text = walker.nextNode(); text; text = walker.nextNode()) {
          const node = text.parentElement;
          if (!text.textContent.trim() || !node.checkVisibility()) continue;
          if (node.closest("script, title, desc")) continue;
          const svg = node.closest("svg");
          const paint = getComputedStyle(node)[svg ? "fill" : "color"];
          found.push(["text", color(paint), background(node)]);
        }
        for (const node of document.querySelectorAll("path.mean, path.seed, use.end")) {
          found.push(["line", color(getComputedStyle(node).stroke), background(node)]);
        }
        return [...new Set(found.map((entry) => JSON.stringify(entry)))].map(JSON.parse);
    """
    pairs = page.run(script)
    assert {kind for kind, *_ in pairs} == {"text", "line"}
    least = {"text": 4.5, "line": 3.0}
    for kind, *colors in pairs:
        paint, background = ("#" + bytes(map(int, rgb[:3])).hex() for rgb in colors)
        assert html.contrast(paint, background) >= least[kind], (kind, paint, background)
    expected = html.THEMES[scheme][0].lower()
    assert {"#" + bytes(x[2]).hex() for x in pairs if x[0] == "line"} == {expected}


def test_a_link_of_the_contents_leads_to_its_section_without_motion(page):
    page.click("nav a[href='#run-time']")
    top = "return document.getElementById('run-time').getBoundingClientRect().top"
    assert page.run(top) == pytest.approx(0, abs=1)
    assert page.run("return document.getAnimations().length") == 0


def test_the_structure_is_accessible(page):
    script = """
        const all = (selector) => [...document.querySelectorAll(selector)];
        const problems = [];
        const check = (selector, rule, good) => {
          if (!all(selector).length) problems.push(`no ${selector}`);
          problems.push(...all(selector).filter((node) => !good(node))
            .map((node) => `${rule}: ${node.outerHTML}`));
        };
        const ids = new Set();
        check("[id]", "id twice", (node) => !ids.has(node.id) && ids.add(node.id));
        const named = (node, name) => ids.has(node.getAttribute(name).replace("#", ""));
        check("[aria-labelledby]", "no label", (node) => named(node, "aria-labelledby"));
        check("a[href^='#']", "no target", (node) => named(node, "href"));
        check("use", "no mark", (node) => named(node, "href"));
        check("svg.chart", "no name", (node) => node.getAttribute("role") === "img"
          && node.firstElementChild.tagName === "title" && node.firstElementChild.textContent
          && node.children[1].tagName === "desc" && node.children[1].textContent);
        check("svg:not(.chart)", "not hidden", (node) => node.ariaHidden === "true");
        check("input", "no label", (node) => node.labels.length === 1
          && node.labels[0].textContent.trim());
        check("button", "no name", (node) => node.textContent.trim());
        check("th", "no scope", (node) => node.scope);
        check("table", "no caption", (node) => node.caption.textContent);
        check("fieldset", "no legend", (node) => node.firstElementChild.tagName === "LEGEND");
        check("details", "no summary", (node) => node.firstElementChild.tagName === "SUMMARY");
        check("html", "no language", (node) => node.lang === "en");
        const levels = all("h1, h2, h3, h4, h5, h6").map((node) => Number(node.tagName[1]));
        return [problems, levels];
    """
    problems, levels = page.run(script)
    assert problems == []
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(low <= high + 1 for high, low in pairwise(levels))
    assert levels.count(3) > 10


def test_a_manifest_holds_every_field_of_its_file(page):
    texts = page.run(
        "return [...document.querySelectorAll('#manifests dl')].map((list) => list.textContent)"
    )
    assert len(texts) == 18
    failed = next(text for text in texts if ATTACK in text and "failed" in text)
    for part in ("cpu test processor, cores 2", "version 0.1.0, commit abc", "float32"):
        assert part in failed


def test_curves_stand_where_their_axis_says(mixed):
    """The positions of the ticks give the scale by which the line of the means is read back."""
    experiment = load(mixed)
    by_cell = dict(iter(curves.plotted(experiment, "return").groupby(["task", "label"])))
    methods = list_methods(experiment)
    chart = charts.learning_curves(experiment, PENDULUM, "return", by_cell, methods)
    [axes] = chart.findall("g[@class='axes']")
    ticks = [x for x in axes.findall("text") if x.get("text-anchor") == "end"]
    values = [float(tick.text.replace("−", "-")) for tick in ticks]
    slope, offset = np.polyfit([float(tick.get("y")) - 3.5 for tick in ticks], values, 1)
    expected = {"sac": [-100.0, 0.0, 0.5], METHODS[1]: [0.0, 0.0, 50.0], "diffsr": [7.0] * 3}
    for method in methods:
        [group] = chart.findall(f"g[@data-method='{method.number}']")
        [line] = group.findall("path[@class='mean']")
        places = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.get("d"))]
        shown = slope * np.array(places) + offset
        assert shown == pytest.approx(expected[method.label], abs=0.5)


def test_a_line_breaks_where_a_value_is_missing():
    panel = svg.Panel.over((0.0, 4.0), (0.0, 1.0))
    points = list(enumerate([0.0, 1.0, float("nan"), 1.0, 0.0]))
    assert re.findall("[ML]", panel.line(points, "mean").get("d")) == ["M", "L", "M", "L"]


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (5, 5), (6, 5), (1000, 200), (1001, 200)])
def test_thinning_keeps_the_last_and_the_distances(count, limit):
    kept = charts.thinned(count, limit)
    assert len(kept) <= limit
    assert kept == list(range(count)) if count <= limit else kept[-1] == count - 1
    assert len({second - first for first, second in pairwise(kept)}) <= 1


def test_the_same_files_give_the_same_bytes(mixed, page_file):
    before = page_file.read_bytes()
    assert build(mixed).read_bytes() == before


def test_controls_are_hidden_until_the_script_shows_them(page_file):
    """Without a script the page still shows everything, and nothing that does not work."""
    text = page_file.read_text()
    controls = re.findall(r"<(?:fieldset|details)[^>]*data-script[^>]*>", text)
    assert len(controls) == 2
    assert all("hidden" in control for control in controls)
    assert text.count("hidden=") == 2 + text.count("aria-hidden=")


def test_an_experiment_without_any_result(tmp_path):
    folder = write_experiment(tmp_path / "quick")
    write_run(folder, "a/B", "sac", 0, [], status="failed", reason="no such file")
    text = build(folder).read_text()
    assert "no such file" in text
    assert "no normalised task has a finished run" in text


def test_240_runs_fit_into_5_megabytes(tmp_path):
    folder = write_experiment(tmp_path / "full", reduced=False, reported="last4")
    returns = np.random.default_rng(0).normal(size=(4, 40)).cumsum(axis=1)
    for task in range(10):
        for label in ("diffsr", "dipo", "lvrep", "polygrad", "qvpo", "sac"):
            for seed in range(4):
                write_run(folder, f"mbbl/Task-{task}", label, seed, returns[seed], every=5000)
    page = build(folder)
    text = page.read_text()
    assert text.count("<details data-method=") == 240
    assert page.stat().st_size < 5_000_000

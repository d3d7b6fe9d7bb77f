"""Method styles and saved figures."""

import re

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis.drawing import style


def grey(color: str) -> float:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_known_methods_differ_in_every_way():
    for attribute in ("color", "linestyle", "marker"):
        values = [getattr(look, attribute) for look in style.KNOWN.values()]
        assert len(set(values)) == len(values)


def test_no_method_vanishes_on_white():
    labels = [*style.KNOWN, *(f"diffsr@steps={n}" for n in range(20)), "new", "other"]
    assert max(grey(style.method_style(label).color) for label in labels) < 0.9


def test_a_style_depends_on_the_label_alone():
    # Fixed values: a change here would recolour the figures of existing experiments.
    assert style.method_style("new") == style.MethodStyle("#6699CC", (0, (1, 2)), "d")
    assert style.method_style("sac") is style.KNOWN["sac"]


def test_variants_share_the_hue_but_not_the_look():
    looks = [style.method_style(f"diffsr@feature_updates={n}") for n in (1, 3, 5, 10, 20)]
    assert len(set(looks)) == 5
    for look in looks:
        red, _, blue = to_rgb(look.color)
        assert blue > red


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1500, "1.5K"), (200_000, "200K"), (1e6, "1M"), (-2500, "−2.5K")],
)
def test_thousands(value, text):
    assert style.thousands()(value, 0) == text


def test_a_saved_figure_is_the_same_bytes_twice(tmp_path):
    for name in ("first", "second"):
        with style.figure_style():
            figure, axes = style.panel_grid(2, (3.0, 2.0))
            axes[0].plot([0, 1], [0, 1], marker="o")
            axes[1].barh([0, 1], [1, 2], hatch="//")
            style.annotate(figure, "Title", "reduced protocol `x`", "A footer.")
            style.save(figure, tmp_path / name)
    for suffix in (".svg", ".png"):
        first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_last_bit_of_a_layout_does_not_reach_the_file(tmp_path):
    for name, left in (("first", 0.1), ("second", 0.1 + 1e-15)):
        figure = Figure(figsize=(3.0, 2.0))
        axis = figure.add_axes((left, 0.1, 0.6, 0.6))
        axis.plot([0, 1], [0, 1])
        style.save(figure, tmp_path / name, (".svg",))
    first, second = ((tmp_path / f"{name}.svg").read_text() for name in ("first", "second"))
    assert first == second
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', first)
    assert used
    assert all(first.count(f' id="{name}"') == 1 for name in used)

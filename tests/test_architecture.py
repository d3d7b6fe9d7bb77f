"""Who may import whom, as docs/architecture.md draws it.

Imports are read from the syntax tree, so that those inside functions and under `TYPE_CHECKING`
count too: a module that names another one knows it, whenever it is loaded.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "algos": (),
    "envs": (),
    "runners": ("algos", "envs"),
    "analysis": ("runners.cells",),
}
"""For each package, what it may import of the others."""

SURFACE = "(surface)"
"""The files that lie directly in a package: what a user names or types."""

FLOORS = {
    "algos": ("pixels", SURFACE, "base", "parts"),
    "envs": ("simulators", SURFACE, "parts"),
    "runners": (
        SURFACE,
        "bench",
        "conformance",
        "launchers",
        "training",
        "terminal",
        "storage",
        "cells",
    ),
    "analysis": (SURFACE, "html", "papers", "drawing", "data", "statistics"),
}
"""The folders of each package, from the top down; a file imports from its own or from lower ones.

A method for images may read the method of its name, and so stands above it; an environment reads
the facts of its suite, which names it by an entry point only.
"""

FILES = sorted(file for package in FLOORS for file in (ROOT / package).rglob("*.py"))


class Arrow(NamedTuple):
    """One import.

    Attributes:
        place: file and line.
        source: the module that imports.
        target: the module of this project that it imports.
    """

    place: str
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.place}: {self.source} imports {self.target}"


def module_of(file: Path) -> str:
    """Return the dotted name of a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imported(node: ast.AST, package: str) -> list[str]:
    """Return the dotted names that a statement imports; a name of a module may be one itself."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def nearest_module(name: str) -> str | None:
    """Return the module of this project that a dotted name lies in, None if it lies in none."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def arrows() -> Iterator[Arrow]:
    """Yield every import of one module of the project by another."""
    for source, file in MODULES.items():
        package = source if file.name == "__init__.py" else source.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in imported(node, package):
                target = nearest_module(name)
                if target is not None:
                    place = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                    yield Arrow(place, source, target)


ARROWS = sorted(set(arrows()))

OPEN_TO_ALL = {package for package in FLOORS if package not in {arrow.source for arrow in ARROWS}}
"""Packages whose `__init__` imports nothing: Python loads it first, so every file may read it."""


def package_of(module: str) -> str:
    """Return the top-level package of a module."""
    return module.partition(".")[0]


def floor_of(module: str) -> str:
    """Return the folder of its package that a module lies in."""
    package, *rest = module.split(".")
    folder = len(rest) > 0 and (ROOT / package / rest[0]).is_dir()
    return rest[0] if folder else SURFACE


def within(module: str, folders: tuple[str, ...]) -> bool:
    """Return whether a module lies in one of some packages."""
    return any(module == folder or module.startswith(f"{folder}.") for folder in folders)


def listed(wrong: list[Arrow]) -> str:
    """Return the arrows one a line."""
    return "\n".join(map(str, wrong))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_of_the_others_only_what_it_may(package):
    allowed = (package, *MAY_IMPORT[package])
    wrong = [
        arrow
        for arrow in ARROWS
        if package_of(arrow.source) == package and not within(arrow.target, allowed)
    ]
    assert not wrong, f"{package} may import {', '.join(allowed)}:\n{listed(wrong)}"


@pytest.mark.parametrize("package", FLOORS)
def test_imports_inside_a_package_point_down(package):
    floors = FLOORS[package]
    wrong = [
        arrow
        for arrow in ARROWS
        if package_of(arrow.source) == package_of(arrow.target) == package
        and arrow.target not in OPEN_TO_ALL
        and floors.index(floor_of(arrow.source)) > floors.index(floor_of(arrow.target))
    ]
    assert not wrong, f"from the top down: {', '.join(floors)}:\n{listed(wrong)}"


def test_a_method_knows_no_other_method():
    methods = {module for module in MODULES if module.startswith("algos.")}
    methods = {module for module in methods if floor_of(module) == SURFACE}
    wrong = [arrow for arrow in ARROWS if {arrow.source, arrow.target} <= methods]
    assert not wrong, listed(wrong)


def test_imports_of_every_form_are_read():
    code = "import a.b\nfrom c import d\nfrom . import e\nif x:\n def f(): from ..g import h"
    found = [name for node in ast.walk(ast.parse(code)) for name in imported(node, "p.q")]
    assert sorted(found) == ["a.b", "c.d", "p.g.h", "p.q.e"]


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_stands_on_a_floor(package):
    folders = {floor_of(module) for module in MODULES if package_of(module) == package}
    assert folders <= set(FLOORS[package])


def test_the_page_describes_every_folder_and_its_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package, floors in FLOORS.items():
        folders = [f"{package}/" if floor == SURFACE else f"{package}/{floor}/" for floor in floors]
        assert [folder for folder in folders if f"| `{folder}` |" not in page] == []
        [line] = [text for text in page.split("\n    - ") if text.startswith(f"`{package}`:")]
        order = [line.find(f"`{floor}`") for floor in floors if floor != SURFACE]
        assert order == sorted(order)
        assert -1 not in order


def test_every_folder_says_what_it_is():
    silent = [
        str(folder.relative_to(ROOT))
        for folder in sorted({file.parent for file in FILES})
        if not (folder / "__init__.py").exists()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert silent == [], "an __init__.py with a docstring is missing"


@pytest.mark.parametrize("folder", ["runners.cells", "analysis"])
def test_imports_without_torch(folder):
    modules = [module for module in MODULES if within(module, (folder,))]
    loads = "\n".join(f"import {module}" for module in modules if "__main__" not in module)
    code = f"import sys\n{loads}\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"importing {folder} brings torch"

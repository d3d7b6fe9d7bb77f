"""What the documents at the top of the repository say: links, citations, the site's pages."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TOP = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
]
METHODS = sorted(page.stem for page in (ROOT / "docs" / "algorithms").glob("*.md"))


@pytest.mark.parametrize("page", [*TOP, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_of_every_method_can_be_cited(method):
    page = (ROOT / "docs" / "algorithms" / f"{method}.md").read_text(encoding="utf-8")
    [paper] = re.findall(r"arXiv (\d{4}\.\d{5})", page)[:1]
    assert f"arXiv:{paper}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert paper in (ROOT / "docs" / "citation.md").read_text(encoding="utf-8")


def test_cff_and_bibtex_name_the_same_papers():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    bibtex = (ROOT / "docs" / "citation.md").read_text(encoding="utf-8")
    papers = [entry["identifiers"][0]["value"].removeprefix("arXiv:") for entry in references]
    assert papers == re.findall(r"eprint +=\s\{([^}]+)\}", bibtex)
    assert [entry["title"] for entry in references] == re.findall(
        r"\{\{(.+)\}\},\n.*author", bibtex
    )


def test_the_code_in_the_readme_is_the_templates():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    template = (ROOT / "algos" / "_template.py").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.+?)```", readme, re.DOTALL)
    missing = [line for line in code.splitlines() if line.strip() not in template]
    assert missing == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1_100

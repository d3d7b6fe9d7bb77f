"""The reports of the kept experiments hold the bytes that `python -m analysis.report` writes."""

import shutil
import subprocess
from pathlib import Path

import pytest

import analysis
from analysis import report

ROOT = Path(analysis.__file__).parents[1]
EXPERIMENTS = sorted(file.parent.name for file in ROOT.glob("results/*/experiment.json"))


def tracked(folder):
    """Files of a folder that git keeps, relative to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_kept_report_is_what_its_command_writes(tmp_path, name):
    kept = ROOT / "results" / name
    files = tracked(kept)
    if not files:
        pytest.skip(f"results/{name} is not kept in git")
    for file in files:
        if not file.startswith("report/"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(kept / file, tmp_path / name / file)
    assert report.main([str(tmp_path / name)]) == 0
    reports = [file for file in files if file.startswith("report/")]
    written = (tmp_path / name / "report").iterdir()
    assert sorted(reports) == sorted(f"report/{f.name}" for f in written if f.suffix != ".png")
    different = [
        file
        for file in reports
        if (tmp_path / name / file).read_bytes() != (kept / file).read_bytes()
    ]
    assert different == []

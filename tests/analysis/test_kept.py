"""The reports of the kept experiments hold the bytes that `python -m analysis.report` writes."""

import shutil
from pathlib import Path

import pytest

import analysis
from analysis import report
from tests.helpers.experiments import tracked
from tests.helpers.selection import mostly_extended

ROOT = Path(analysis.__file__).parents[1]
EXPERIMENTS = sorted(file.parent.name for file in ROOT.glob("results/*/experiment.json"))


@pytest.mark.parametrize("name", mostly_extended(EXPERIMENTS, quick=["hopper-et-50k"]))
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

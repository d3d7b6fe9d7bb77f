"""Fixtures of the tests of launchers whose workers are started elsewhere: by Ray or Slurm."""

import pytest

from tests.helpers.cluster import undisturbed


@pytest.fixture(scope="session")
def quiet(tmp_path_factory):
    """The files of the cells of `cells_in` that nothing disturbed."""
    return undisturbed(tmp_path_factory.mktemp("quiet"))


@pytest.fixture
def whole(quiet, tmp_path):
    """The files to come to; the steps of this test's runs take their time."""
    (tmp_path / "slow").touch()
    return quiet

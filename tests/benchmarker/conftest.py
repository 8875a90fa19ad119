"""Experiments before, while and after they are run."""

import shutil

import pytest
from bench import Bench, make_bench


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """No experiment yet."""
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def finished(empty):
    """The teacher t1 and its student s1, both tested, each with a reproduction. Not to be changed."""
    for name in ("t1", "s1"):
        empty.run(name, "--reproductions", "1")
    return empty


@pytest.fixture
def bench(empty, tmp_path):
    """No experiment yet, in a folder of its own."""
    return Bench(empty.data, empty.configs, tmp_path / "experiments")


@pytest.fixture
def copied(finished, tmp_path):
    """What is finished, to be changed."""
    shutil.copytree(finished.experiments, tmp_path / "experiments")
    return Bench(finished.data, finished.configs, tmp_path / "experiments")

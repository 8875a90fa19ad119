"""What `make stress` does at length, in small."""

import numpy as np
import pytest
from faults import fuzz, look, stress

pytestmark = pytest.mark.once("processes of the command line")


def test_kills_at_random_moments_change_no_byte_with_swav_and_a_frozen_trunk(tmp_path):
    stood = stress.kill(tmp_path, kills=2, terms=1, say=lambda line: None)
    assert stood.total() == 2
    assert {name for name, _ in stood} == {"SIGTERM", "SIGKILL"}


def test_check_finds_each_of_twenty_planted_faults(tmp_path):
    rng = np.random.default_rng(0)
    look.write(tmp_path, 200, rng)
    assert look.look(tmp_path) == set()
    planted = look.plant(tmp_path, rng)
    assert len(planted) == len(look.PLANTED) == 20
    assert look.look(tmp_path) == planted


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return fuzz.Fuzz(tmp_path_factory.mktemp("fuzz").resolve(), seed=1)


def test_files_of_a_runs_folder_may_be_forged(fuzzed):
    wrong, refused = [], 0
    for name in fuzzed.files[::5]:
        forgery, found = fuzzed.forge(name)
        wrong += [f"{forgery}: {each}" for each in found]
        refused += fuzzed.refused
    assert wrong == []
    assert refused > len(fuzzed.files) / 20

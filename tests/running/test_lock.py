"""Two runs in one folder: the first one has it."""

import pytest
from images import small_config

from pml_slade.exceptions import ConfigError
from pml_slade.locks import locked
from pml_slade.running.pretraining import run_pretraining
from pml_slade.running.run import Run

pytestmark = pytest.mark.once("files alone")


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_settings_are_compared_once_more_when_the_folder_is_ours(folders, tmp_path):
    one, other = (
        Run(small_config(folders, tmp_path / "run", "rows=[teacher]", f"seed={seed}"), progress=False)
        for seed in (0, 1)
    )
    one.run()
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match="seed: 0, now 1"):
        other.run()
    assert content(tmp_path / "run") == before


def test_neither_training_nor_pretraining_begins_in_a_folder_that_is_held(folders, tmp_path):
    run = Run(small_config(folders, tmp_path / "run", "rows=[teacher]"), progress=False)
    alone = small_config(
        folders,
        tmp_path / "run",
        "rows=[]",
        "pretraining.steps=4",
        "pretraining.batch_size=4",
        "pretraining.num_local=0",
    )
    with locked(tmp_path / "run"):
        before = content(tmp_path / "run")
        with pytest.raises(ConfigError, match="is in use"):
            run.run()
        with pytest.raises(ConfigError, match="is in use"):
            Run(small_config(folders, tmp_path / "run", "rows=[teacher]", "seed=1"), progress=False)
        with pytest.raises(ConfigError, match="is in use"):
            run_pretraining(alone, progress=False)
        assert content(tmp_path / "run") == before

"""The model card of a run: complete, and what people wrote into it stays."""

import json

import pytest
import yaml
from images import small_config, splits

import pml_slade
from pml_slade.running.cards import BEGIN, END
from pml_slade.running.run import Run

pytestmark = pytest.mark.once

NOWHERE = {"labeled": "a", "unlabeled": "b"}


@pytest.fixture
def run(tmp_path):
    def train(*overrides, **parts):
        config = small_config(NOWHERE, tmp_path / "run", "rows=[teacher]", *overrides)
        Run(config, progress=False, splits=splits(**parts)).run()
        return tmp_path / "run"

    return train


def card(folder):
    return (folder / "README.md").read_text()


def test_the_card_says_what_the_model_is_and_how_to_use_it(run):
    folder = run("student.lr=0.002")
    text = card(folder)
    front = yaml.safe_load(text.split("---")[1])
    assert {"license", "license_of_the_data", "base_model_license", "library_name"} <= set(front)
    for section in ("Use", "Results", "Data", "Training", "Made with"):
        assert f"\n## {section}\n" in text
    [result] = json.loads((folder / "results.json").read_text())
    for part in ("validation", "test"):
        figures = " | ".join(f"{value:.1f}" for value in result[part].values())
        assert f"| Teacher | {part} | 8 | {figures} |" in text
    assert "| unlabeled | 64 | 8 | trained on, without labels |" in text
    assert "| `student.lr` | `0.002` | `1e-05` |" in text
    assert "| `output`" not in text
    assert "pytorch-metric-learning" in text


def test_what_people_wrote_stays_and_the_rest_is_written_again(run):
    folder = run()
    text = (
        card(folder).replace("license: unknown", "license: mit").replace("Say here what", "For birds. What")
    )
    (folder / "README.md").write_text(text + "\nAsk us.\n")
    run("teacher.steps=12")
    again = card(folder)
    assert yaml.safe_load(again.split("---")[1])["license"] == "mit"
    assert "For birds." in again
    assert again.endswith("\nAsk us.\n")
    assert "| Teacher | test | 12 |" in again
    assert again.count(BEGIN) == again.count(END) == 1


def test_a_file_of_someone_else_is_not_overwritten(run, caplog):
    folder = run()
    (folder / "README.md").write_text("mine")
    run()
    assert "README.md is no model card of a run, and stays as it is" in caplog.text
    assert card(folder) == "mine"


def test_without_held_out_images_the_card_says_so(run):
    assert "Nothing was measured" in card(run(validation=False, test=False))


def test_the_lines_of_the_card_run(run, monkeypatch):
    folder = run()
    code = card(folder).split("```python\n")[1].split("```")[0]
    images = splits().test
    shown = folder / "shown"
    shown.mkdir()
    for i in range(8):
        images.image(i).save(shown / f"{i}.png")
    values = {"FOLDER": str(folder), "IMAGES": str(shown), "QUERY.jpg": str(shown / "0.png")}
    for word, path in values.items():
        code = code.replace(f'"{word}"', repr(path))
    load = pml_slade.load
    monkeypatch.setattr(pml_slade, "load", lambda path: load(path, "cpu", workers=0))
    found = {}
    exec(compile(code, "card", "exec"), found)
    assert found["embeddings"].shape == (8, 8)
    assert len(found["found"][0]) == 5

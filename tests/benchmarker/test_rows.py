"""Which layers make which experiment."""

import pytest

pytest.importorskip("powerful_benchmarker")

from pml_slade.benchmarker import rows
from pml_slade.exceptions import ConfigError
from pml_slade.reports import paper

DATASETS = (*rows.PHOTOS, *rows.DRAWINGS)


def there(dataset):
    return [name for name in rows.EXPERIMENTS if dataset in rows.DRAWINGS or name != "swav"]


def test_there_are_the_rows_of_the_paper():
    assert len(rows.ROWS) == 19
    assert len(set(rows.EXPERIMENTS)) == len(rows.EXPERIMENTS)


@pytest.mark.parametrize("ablation", paper.ABLATIONS)
def test_what_a_table_shows_can_be_trained(ablation):
    described = str(paper.ABLATIONS[ablation])
    assert any(name in described for name in (*rows.ROWS, *rows.ABLATIONS))


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_an_experiment_needs_is_an_experiment_that_comes_before_it(dataset):
    def chain(name):
        return [name, *(other for need in rows.needs(dataset, name) for other in chain(need))]

    for name in there(dataset):
        assert set(chain(name)) <= set(there(dataset))
        assert len(chain(name)) == len(set(chain(name))) <= 5


@pytest.mark.parametrize("dataset", rows.PHOTOS)  # on drawings all trunks are one
def test_no_two_experiments_are_the_same(dataset):
    made = [tuple(rows.layers(dataset, name)) for name in there(dataset)]
    assert len(set(made)) == len(made)
    assert all(layers[0] == "default" and dataset in layers for layers in made)
    assert all(len(set(layers)) == len(layers) for layers in made)


def test_a_student_and_its_teacher_share_the_loss_and_the_trunk():
    for name, row in {**rows.ROWS, **rows.ABLATIONS}.items():
        if row.teacher is not None:
            teacher = {**rows.ROWS, **rows.ABLATIONS}[row.teacher]
            assert (row.loss, row.trunk) == (teacher.loss, teacher.trunk), name
            assert rows.needs("cub200", name) == [row.teacher]


@pytest.mark.parametrize(
    ("dataset", "name", "needed"),
    [
        ("cub200", "t2", ["swav_finetuned"]),
        ("cub200", "t2_swav", []),
        ("cub200", "swav_finetuned", []),
        ("glyphs", "swav_finetuned", ["swav"]),
        ("glyphs", "t2_swav", ["swav"]),
        ("glyphs", "swav", []),
        ("glyphs", "s2_k100", ["t2"]),
        ("glyphs", "t2_on", ["t2"]),
        ("in_shop", "contrastive", []),
    ],
)
def test_needs(dataset, name, needed):
    assert rows.needs(dataset, name) == needed


def test_flags_are_the_name_and_the_layers():
    assert rows.flags("cub200", "s2_k100") == [
        "--experiment_name",
        "s2_k100",
        "--config_experiment",
        "[default, cub200, resnet50_swav, contrastive, student, from_t2, k100]",
    ]


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        ("cub", "t1", "dataset: 'cub' is none of cub200, cars196"),
        ("cub200", "t5", "experiment: 't5' is none of swav, swav_finetuned, contrastive"),
        ("cub200", "swav", "on photos swav is a file"),
    ],
)
def test_what_is_not_there_is_refused(dataset, name, message):
    for ask in (rows.layers, rows.needs, rows.flags):
        with pytest.raises(ConfigError, match=message):
            ask(dataset, name)

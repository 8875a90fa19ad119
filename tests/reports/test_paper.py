"""The paper's numbers: complete, in order, and the same wherever the paper says them twice."""

import pytest

from pml_slade.reports.paper import ABLATIONS, DATASETS, ROWS
from pml_slade.reports.tables import METRICS

OF_OTHERS = ["contrastive", "triplet", "proxy_nca", "n_softmax", "cosface", "fastap", "ms_miner"]
OF_OTHERS += ["proxy_anchor_bn", "proxy_anchor", "proxy_nca_pp", "mutual_info"]
KEYS = [*OF_OTHERS, "t1", "t2", "s1", "s2", "t3", "t4", "s3", "s4"]
OWN_FRAMEWORK = {"proxy_anchor_bn": "[2]", "proxy_nca_pp": "[3]", "mutual_info": "[4]"}
BY_KEY = {row.key: row for row in ROWS}
LINES = [(name, line) for name, ablation in ABLATIONS.items() for line in ablation.lines]


def scores(line, dataset):
    return tuple(line.published[dataset][metric] for metric in METRICS)


def test_the_rows_are_those_of_the_paper_in_its_order():
    assert [row.key for row in ROWS] == KEYS


def test_some_numbers_of_the_first_the_last_and_an_odd_row():
    assert scores(BY_KEY["contrastive"], "CUB200") == (26.53, 37.24, 68.13)
    assert scores(BY_KEY["s4"], "Cars196") == (37.98, 46.92, 91.53)
    assert scores(BY_KEY["mutual_info"], "CUB200") == (None, None, 69.2)
    assert scores(BY_KEY["proxy_anchor_bn"], "Cars196") == (None, None, 87.7)


@pytest.mark.parametrize("row", ROWS, ids=KEYS)
def test_a_row_has_every_dataset_and_metric_and_the_others_framework_only_p_at_1(row):
    assert set(row.published) == set(DATASETS)
    assert row.framework == OWN_FRAMEWORK.get(row.key, "[1]")
    for dataset in DATASETS:
        known = [score is not None for score in scores(row, dataset)]
        assert known == ([False, False, True] if row.key in OWN_FRAMEWORK else [True] * 3)


@pytest.mark.parametrize("row", [row for row in ROWS if row.framework == "[1]"], ids=lambda row: row.key)
def test_the_metrics_of_a_row_are_ordered_as_they_must_be(row):
    for dataset in DATASETS:
        map_at_r, rp, p_at_1 = scores(row, dataset)
        assert 0 < map_at_r < rp < p_at_1 < 100


def test_an_initialisation_by_name():
    swav = {row.key for row in ROWS if row.init == "SwAV"}
    assert swav == {"t2", "s2", "t4", "s4"}
    assert all(row.init == "ImageNet" for row in ROWS if row.key not in swav)


@pytest.mark.parametrize(("name", "line"), LINES, ids=lambda value: getattr(value, "key", value))
def test_an_ablation_says_of_a_row_what_the_results_table_says(name, line):
    assert set(line.published) == set(DATASETS)
    if line.key in BY_KEY:
        for dataset, published in line.published.items():
            for metric, score in published.items():
                assert score in (None, BY_KEY[line.key].published[dataset][metric])


@pytest.mark.parametrize(
    ("name", "number", "keys", "cub"),
    [
        ("initialisation", 1, "s1 s2_swav s2", (29.38, 32.79, 33.59)),
        ("components", 2, "t2 s2_pseudo s2_basis s2", (29.29, 30.81, 32.45, 33.59)),
        ("regulariser", 3, "s2_local_ce s2_global_ce s2", (32.69, 32.23, 33.59)),
        ("k", 4, "s2_k100 s2_k200 s2_k300 s2 s2_k500", (31.83, 32.61, 32.81, 33.59, 33.26)),
    ],
)
def test_the_ablations_read_these_experiments(name, number, keys, cub):
    ablation = ABLATIONS[name]
    assert (ablation.number, ablation.title) == (number, name)
    assert [line.key for line in ablation.lines] == keys.split()
    assert tuple(line.published["CUB200"]["MAP@R"] for line in ablation.lines) == cub


def test_the_lines_of_the_last_ablation_are_numbers_of_clusters():
    assert [int(line.title) for line in ABLATIONS["k"].lines] == [100, 200, 300, 400, 500]

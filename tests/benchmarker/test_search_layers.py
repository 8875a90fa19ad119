"""Every row has layers that a Bayesian search understands, and whose keys its classes take."""

import sys

import pytest

pytest.importorskip("powerful_benchmarker")

from powerful_benchmarker.runners.bayes_opt_runner import set_optimizable_params_and_bounds

from pml_slade.benchmarker import rows
from pml_slade.benchmarker.checks import check_settings
from pml_slade.benchmarker.runner import Runner, configs_folder

SEARCHED = {
    "contrastive": {"pos_margin", "neg_margin"},
    "triplet": {"margin"},
    "proxy_nca": {"softmax_scale", "lr"},
    "n_softmax": {"temperature", "lr"},
    "cosface": {"margin", "scale", "lr"},
    "fastap": {"num_bins"},
    "ms_miner": {"alpha", "beta", "base", "epsilon"},
    "proxy_anchor_bn": {"margin", "alpha", "lr"},
    "proxy_anchor": {"margin", "alpha", "lr"},
    "proxy_nca_pp": {"softmax_scale", "lr"},
    "mutual_info": {"label_smoothing", "lr"},
    "t1": {"pos_margin", "neg_margin"},
    "t2": {"pos_margin", "neg_margin"},
    "s1": {"pos_margin", "neg_margin", "basis_loss", "margin"},
    "s2": {"pos_margin", "neg_margin", "basis_loss", "margin"},
    "t3": {"alpha", "beta", "base", "epsilon"},
    "t4": {"alpha", "beta", "base", "epsilon"},
    "s3": {"alpha", "beta", "base", "epsilon", "basis_loss", "margin"},
    "s4": {"alpha", "beta", "base", "epsilon", "basis_loss", "margin"},
}


@pytest.mark.parametrize("dataset", ["omniglot", "cub200"])
@pytest.mark.parametrize("row", rows.ROWS)
def test_the_keys_of_a_row_are_searched_within_bounds(row, dataset, monkeypatch, tmp_path):
    layers = [*rows.layers(dataset, row), *rows.search_layers(dataset, row)]
    flags = ["--experiment_name", "x", "--config_experiment", f"[{', '.join(layers)}]"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
    runner = Runner(root_config_folder=str(configs_folder()), root_experiment_folder=str(tmp_path))
    reader = runner.setup_yaml_reader()
    deep = float("inf")
    args, _, _ = reader.load_yamls(
        runner.get_root_config_paths(reader.args), max_merge_depth=deep, max_argparse_merge_depth=deep
    )
    found = []
    set_optimizable_params_and_bounds(vars(args), found, "")
    assert {parameter["name"].split("/")[-1] for parameter in found} == SEARCHED[row]
    for parameter in found:
        low, high = parameter["bounds"]
        assert low < high
        assert low > 0 or not parameter["log_scale"]
    check_settings(args, runner.pytorch_getter)

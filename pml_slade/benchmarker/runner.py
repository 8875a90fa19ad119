"""powerful-benchmarker from the command line: its flags, its protocol, our classes."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import logging
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tqdm
import yaml
from powerful_benchmarker.runners.single_experiment_runner import SingleExperimentRunner
from powerful_benchmarker.utils import common_functions as their_functions

from ..exceptions import ConfigError, SladeError
from .experiments import cut_off_folds
from .registry import register_all

logger = logging.getLogger("pml_slade")


class Runner(SingleExperimentRunner):
    """powerful-benchmarker's SingleExperimentRunner that knows our classes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        register_all(self)

    def check_root_configs(self, args: Any) -> None:
        """Refuse names of YAML files that do not exist."""
        for key, paths in self.get_root_config_paths(args).items():
            for path in map(Path, paths):
                if not path.is_file():
                    there = sorted(p.stem for p in path.parent.glob("*.yaml"))
                    raise ConfigError(f"{key}: no file {path}; there are {', '.join(there) or 'none'}.")

    def setup_yaml_reader(self) -> Any:
        """As theirs, where `--config_x name` also stands for `--config_x [name]`, and files must exist."""
        try:
            reader = super().setup_yaml_reader()
        except ValueError as error:
            raise ConfigError(f"flags: {str(error).strip()}") from error
        for key in reader.args.config_foldernames:
            setattr(
                reader.args, key, their_functions.if_str_convert_to_singleton_list(getattr(reader.args, key))
            )
        self.check_root_configs(reader.args)
        return reader

    def get_saved_config_paths(self, args: Any, config_folder: str | None = None) -> Any:
        """As theirs, with what was changed on the way; theirs goes back to how the run was begun."""
        paths = super().get_saved_config_paths(args, config_folder)
        configs = Path(args.place_to_save_configs)
        if config_folder is None and their_functions.get_sorted_config_diff_folders(str(configs))[0]:
            self.merged = tempfile.TemporaryDirectory()  # gone with the runner
            for part in paths:
                paths[part] = [str(Path(self.merged.name) / f"{part}.yaml")]
                their_functions.write_yaml(paths[part][0], saved_settings(configs, part), "w")
        return paths


def saved_settings(configs: Path, part: str) -> dict[str, Any]:
    """Settings of a run as it stands: as saved at first, with each key that was changed since."""
    settings: dict[str, Any] = yaml.safe_load((configs / f"{part}.yaml").read_text(encoding="utf-8")) or {}
    for folder in their_functions.get_sorted_config_diff_folders(str(configs))[0]:
        if (Path(folder) / f"{part}.yaml").is_file():
            settings |= yaml.safe_load((Path(folder) / f"{part}.yaml").read_text(encoding="utf-8"))
    return settings


def run(argv: Sequence[str]) -> None:
    """Train, evaluate or search as the flags say; the same command resumes.

    Args:
        argv: powerful-benchmarker's flags, and ours (see `pml-slade benchmark --help`).

    Raises:
        SladeError: a setting is unknown, or something that the run needs is missing.

    Examples:
        >>> run(["--experiment_name", "x", "--root_config_folder", "no/such/folder"])
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: root_config_folder: no file no/such/folder/...
    """
    options, rest = _parse(argv)
    with _quiet(options.quiet):
        if options.bayes_opt_iters:
            _search(options, rest)
        elif options.evaluate or options.evaluate_ensemble or options.resume_training:
            _expect(options)
            _theirs(options, rest, options.experiment_name, _chosen(options))
        else:
            _train_and_test(options, rest)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line; errors made for people come without a traceback."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        run(sys.argv[1:] if argv is None else argv)
    except SladeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; repeat the command to resume from the last epoch that was saved", file=sys.stderr)
        raise SystemExit(130) from None


def configs_folder() -> Path:
    """The configs that come with the package: beside a checkout, else where pip puts shared files."""
    beside = Path(__file__).parents[2] / "benchmarker_configs"
    installed = Path(sysconfig.get_path("data")) / "share" / "pml_slade" / "benchmarker_configs"
    return beside if beside.is_dir() else installed


def _parse(argv: Sequence[str]) -> tuple[Any, list[str]]:
    """Our flags, and what is left for powerful-benchmarker."""
    options, rest = _parser().parse_known_args(argv)
    if not (Path(options.root_config_folder) / "config_foldernames.yaml").is_file():
        raise ConfigError(
            f"root_config_folder: no file {options.root_config_folder}/config_foldernames.yaml; give "
            "pml_slade's folder benchmarker_configs, or a complete tree of your own."
        )
    # It wants the words of a mapping one by one, as an unquoted one comes from a shell.
    return options, [word for given in rest for word in (given.split() if given[:1] == "{" else [given])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pml-slade benchmark",
        allow_abbrev=False,
        description="powerful-benchmarker with SLADE in it. Any other flag overrides a setting of the YAML: "
        "--patience 9, --config_experiment '[default, drawings, omniglot, contrastive]'.",
        epilog="If it was stopped, repeat the command: it resumes.",
    )
    add = parser.add_argument
    add("--experiment_name", required=True, help="folder of the run, below root_experiment_folder")
    add("--resume_training", choices=["latest", "best"], help="theirs; not needed: a run resumes by itself")
    add("--evaluate", action="store_true", help="theirs: evaluate the best models of a trained experiment")
    add("--evaluate_ensemble", action="store_true", help="theirs: evaluate all folds concatenated")
    add("--reproduce_results", metavar="FOLDER", help="theirs: train with the settings of that experiment")
    add("--test", action="store_true", help="when trained, evaluate on test: folds alone and concatenated")
    add("--reproductions", type=int, default=0, help="so many more runs of it, all tested (implies --test)")
    add("--bayes_opt_iters", type=int, default=0, help="search the settings that end in ~BAYESIAN~ first")
    add("--dataset_root", default="datasets")
    add("--root_experiment_folder", default="experiments")
    add("--root_config_folder", default=str(configs_folder()))
    add("--global_db_path")
    add("--pytorch_home")
    add("--merge_argparse_when_resuming", action="store_true", help="let flags change a run that resumes")
    add("--quiet", "-q", action="store_true", help="no progress bars")
    return parser


def _runner(options: Any, kind: type = Runner, **more: Any) -> Any:
    return kind(
        dataset_root=options.dataset_root,
        root_experiment_folder=options.root_experiment_folder,
        root_config_folder=options.root_config_folder,
        global_db_path=options.global_db_path,
        pytorch_home=options.pytorch_home,
        merge_argparse_when_resuming=options.merge_argparse_when_resuming,
        **more,
    )


def _theirs(options: Any, rest: Sequence[str], name: str, flags: Sequence[str]) -> Any:
    """One run of powerful-benchmarker, which reads its flags from the process's command line."""
    with _argv(["--experiment_name", name, *flags, *rest]):
        try:
            return _runner(options).run()
        except SystemExit:
            raise ConfigError(f"experiment_name: {_folder(options, name)} is taken.") from None


def _chosen(options: Any) -> list[str]:
    flags = ["--resume_training", options.resume_training] if options.resume_training else []
    return flags + [f"--{key}" for key in ("evaluate", "evaluate_ensemble") if getattr(options, key)]


def _train_and_test(options: Any, rest: Sequence[str]) -> None:
    name = options.experiment_name
    _train(options, rest, name, options.reproduce_results)
    names = [name, *(f"{name}_reproduction{i}" for i in range(options.reproductions))]
    for each in names:
        if each != name:
            _train(options, rest, each, str(_folder(options, name)))
        if options.test or options.reproductions:
            logger.info("%s: testing", each)
            _theirs(options, ["--splits_to_eval", "[test]"], each, ["--evaluate"])
            again = ["--skip_ensemble_eval_if_already_done", "False"] if _is_outdated(options, each) else []
            _theirs(options, ["--splits_to_eval", "[test]", *again], each, ["--evaluate_ensemble"])


def _is_outdated(options: Any, name: str) -> bool:
    """Whether a best model is newer than the scores of all folds together, which know no epochs."""
    folder = _folder(options, name)
    scores = [p.stat().st_mtime for p in folder.glob("meta_logs/saved_csvs/ConcatenateEmbeddings_*.csv")]
    best = [p.stat().st_mtime for p in folder.glob("*/saved_models/trunk_best*.pth")]
    return bool(scores) and max(best, default=0.0) > max(scores)


def _train(options: Any, rest: Sequence[str], name: str, like: str | None) -> None:
    """Begin a run, or go on with one of the same settings; `like` is an experiment to reproduce."""
    folder = _folder(options, name)
    flags = [] if like is None else ["--reproduce_results", like]
    if like is not None and not (Path(like) / "configs").is_dir():
        raise ConfigError(f"reproduce_results: {like} holds no configs: it is not an experiment.")
    trained = any(folder.glob("*/saved_models/*.pth"))
    for fold in cut_off_folds(folder) if trained else ():
        logger.warning("%s: %s was stopped while it was saved, and starts anew", name, fold.name)
        shutil.rmtree(fold)
    if any(folder.glob("*/saved_models/*.pth")):
        if like is None:
            _check_same_settings(options, rest, name)
        logger.info("%s: going on", name)
        flags += ["--resume_training", "latest"]
    elif folder.is_dir():
        _expect_nothing_but_a_start(folder)
        shutil.rmtree(folder)  # powerful-benchmarker would not begin in it
    _theirs(options, rest, name, flags)


def _expect_nothing_but_a_start(folder: Path) -> None:
    """Refuse a folder that holds more than what a run writes before its first model."""
    for path in folder.rglob("*"):
        part, *below = path.relative_to(folder).parts
        records = below[:1] in (["tensorboard_logs"], ["saved_plots"]) or (
            part != "meta_logs" and (below[:1] == ["saved_csvs"] or path.stem == "pseudo_labels")
        )
        if path.is_file() and part != "configs" and not records:
            raise ConfigError(
                f"experiment_name: {folder} is taken: it holds {path.relative_to(folder)} and no models of a "
                "run to go on with. Choose another name; a Bayesian search goes on with --bayes_opt_iters."
            )


def check_same_settings(argv: Sequence[str]) -> None:
    """Refuse a command whose settings are not those that its experiment was begun with.

    Args:
        argv: as in `run`, of an experiment that is there.

    Raises:
        ConfigError: names the first setting that differs.
    """
    options, rest = _parse(argv)
    _check_same_settings(options, rest, options.experiment_name)


def _check_same_settings(options: Any, rest: Sequence[str], name: str) -> None:
    with _argv(["--experiment_name", name, *rest]):
        runner = _runner(options)
        reader = runner.setup_yaml_reader()
        _, _, given = reader.load_yamls(
            runner.get_root_config_paths(reader.args),
            max_merge_depth=float("inf"),
            max_argparse_merge_depth=float("inf"),
            merge_argparse=True,
        )
    for part, settings in copy.deepcopy(dict(given)).items():
        layers = part == runner.config_foldernames_base
        if layers != options.merge_argparse_when_resuming:
            continue  # flags may change settings on the way, if asked to; layers are read at first only
        began = saved_settings(_folder(options, name) / "configs", part)
        for key in {*settings, *began}:
            if settings.get(key) != began.get(key):
                raise ConfigError(
                    f"experiment_name: {name} was begun with {key}: {began.get(key)}, not "
                    f"{settings.get(key)}. Give the run another name"
                    + (
                        ", or flags in place of layers."
                        if layers
                        else ", or --merge_argparse_when_resuming to change it on the way."
                    )
                )


def _search(options: Any, rest: Sequence[str]) -> None:
    from .bayes_opt import BayesOptRunner

    with _argv(["--experiment_name", options.experiment_name, *_chosen(options), *rest]):
        counts = {"bayes_opt_iters": options.bayes_opt_iters, "reproductions": options.reproductions}
        try:
            runner = _runner(options, BayesOptRunner, **counts)
        except SladeError:
            raise
        except ValueError as error:
            raise ConfigError(f"flags: {str(error).strip()}") from error
        register_all(runner)
        runner.run()


def _expect(options: Any) -> None:
    folder = _folder(options, options.experiment_name)
    if not (folder / "configs").is_dir():
        raise ConfigError(f"experiment_name: there is no experiment in {folder}; train it first.")


def _folder(options: Any, name: str) -> Path:
    return Path(options.root_experiment_folder) / name


@contextlib.contextmanager
def _argv(flags: Sequence[str]) -> Iterator[None]:
    with mock.patch.object(sys, "argv", ["pml-slade benchmark", *flags]):
        yield


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keep powerful-benchmarker's trainers and testers from drawing progress bars."""
    silent = functools.partialmethod(tqdm.tqdm.__init__, disable=True)
    with mock.patch.object(tqdm.tqdm, "__init__", silent) if quiet else contextlib.nullcontext():
        yield

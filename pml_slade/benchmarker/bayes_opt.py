"""powerful-benchmarker's Bayesian search on today's ax, pandas and plotly, and safe to kill at any moment."""

from __future__ import annotations

import base64
import glob
import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from .. import compat  # noqa: F401  (numpy's old names, before anything of theirs runs)

# isort: split
import numpy as np
from ax.core.base_trial import TrialStatus
from ax.core.observation import ObservationData
from ax.modelbridge.registry import Models
from ax.plot.contour import interact_contour
from ax.plot.helper import get_range_parameters
from ax.plot.render import plot_config_to_html
from ax.plot.slice import plot_slice
from ax.service.ax_client import AxClient, ObjectiveProperties
from ax.utils.report.render import render_report_elements
from powerful_benchmarker.runners import bayes_opt_runner as theirs
from powerful_benchmarker.utils.constants import BAYESIAN_KEYWORDS, RESUME_FAILURE
from pytorch_metric_learning.utils import logging_presets

from ..checkpoints import write_atomic
from ..exceptions import CheckpointError, ConfigError, SladeError
from .experiments import cut_off_folds

logger = logging.getLogger("pml_slade")

_EXAMPLE = " Write for instance lr~LOG_BAYESIAN~: [1.0e-6, 1.0e-2]; YAML takes 1e-6 for text."


class BayesOptRunner(theirs.BayesOptRunner):
    """powerful-benchmarker's BayesOptRunner, mended for ax 0.4.3.

    It searches the settings whose keys end in ``~BAYESIAN~``, ``~LOG_BAYESIAN~`` or ``~INT_BAYESIAN~``, tests
    and reproduces the best trial, and writes what powerful-benchmarker writes, where it does. After an
    interruption the same command goes on: finished trials stay; the one that was running goes on from its
    last epoch or, where a file of it was cut off, starts anew with the same parameters. Trials, tests and
    reproductions know every class that was registered with this runner.

    Like all of powerful-benchmarker's runners it reads ``sys.argv`` as it is made; ``--experiment_name`` must
    be there.

    Args:
        bayes_opt_iters: how many trials the finished search has, those of earlier runs included.
        reproductions: how often the best trial is trained again for the confidence intervals; a pair (first,
            last + 1) makes only these.
        **kwargs: `dataset_root`, `root_experiment_folder`, `root_config_folder`, `global_db_path`,
            `pytorch_home` and `merge_argparse_when_resuming`, as in any runner of powerful-benchmarker.

    Raises:
        ConfigError: no key is to be searched, or its bounds are not two numbers, the lower one first.

    Examples:
        >>> import sys, tempfile
        >>> runs = tempfile.mkdtemp()
        >>> with mock.patch.object(sys, "argv", ["search", "--experiment_name", "nothing_to_search"]):
        ...     BayesOptRunner(bayes_opt_iters=50, reproductions=10, root_experiment_folder=runs)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: no key of the settings in ... ends in ~BAYESIAN~...
    """

    def set_YR(self, use_super: bool = True) -> None:
        """Read the settings; those that cannot be searched are refused and not kept."""
        if use_super:
            self._drop_unfinished_configs()
            super().set_YR(use_super=True)
            return
        configs = Path(self.YR.args.place_to_save_configs)
        begun = configs.is_dir()
        try:
            super().set_YR(use_super=False)
            _check_bounds(self.bayes_params, configs if begun else Path(self.root_config_folder))
        except BaseException as error:
            # What is saved counts from then on: a mistake must not stay when the YAML is put right.
            if not begun:
                shutil.rmtree(configs, ignore_errors=True)
            if isinstance(error, AssertionError):  # theirs
                raise ConfigError(f"a key that is searched has no list of two bounds.{_EXAMPLE}") from None
            raise

    def run(self) -> None:
        """Search, test the best trial, reproduce it, report; or go on with it.

        Raises:
            SladeError: a setting or a file that the trials need is wrong.
        """
        for table in Path(self.bayes_opt_root_experiment_folder).rglob("*.csv"):
            if not table.stat().st_size:  # killed between opening and writing; record-keeper expects a header
                table.unlink()
        super().run()

    def get_ax_client(self) -> Any:
        """The search so far, from the newest log that is whole, or a new one."""
        logs = self.get_all_log_paths()
        for path in logs:
            try:
                client = AxClient.load_from_json_file(filepath=path)
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be read (%s); taking the log before it", path, error)
            else:
                self.update_bayes_opt_search_space(client)
                return client
        if len(logs) > 1:  # the first is written before the first trial: then nothing is lost
            raise CheckpointError(
                f"none of the {len(logs)} logs in {self.ax_log_folder} can be read, so the search cannot go "
                "on; give it another experiment_name."
            )
        client = AxClient()
        objectives = {self.eval_primary_metric: ObjectiveProperties(minimize=False)}
        client.create_experiment(
            name=self.experiment_name, parameters=self.bayes_params, objectives=objectives
        )
        return client

    def save_new_log(self, ax_client: Any) -> None:
        """As theirs, in one piece."""
        path = Path(self.ax_log_folder) / f"log{len(self.get_all_log_paths()):05d}.json"
        write_atomic(path, json.dumps(ax_client.to_json_snapshot()).encode())

    def update_records(self, record_keeper: Any, ax_client: Any, iteration: int | None) -> None:
        """As theirs, with trials that were logged and not recorded when a run was killed."""
        table = self.bayes_opt_table_name
        known = (
            record_keeper.query(f"SELECT trial_index FROM {table}")
            if record_keeper.table_exists(table)
            else []
        )
        recorded = {int(row["trial_index"]) for row in known}
        for index, trial in sorted(ax_client.experiment.trials.items()):
            if trial.status == TrialStatus.COMPLETED and index not in recorded:
                super().update_records(record_keeper, ax_client, index)

    def save_best_parameters(self, record_keeper: Any, ax_client: Any) -> str:
        """As theirs, of all trials."""
        self.update_records(record_keeper, ax_client, None)
        name: str = super().save_best_parameters(record_keeper, ax_client)
        return name

    def plot_progress(self, ax_client: Any) -> None:
        """As theirs; a plot that cannot be drawn is told in the log and stops nothing."""
        elements = []
        for draw in (type(ax_client).get_optimization_trace, self._plot_model):
            try:
                config = draw(ax_client)
                elements.append(plot_config_to_html(config._replace(data=_plain_arrays(config.data))))
            except Exception as error:
                logger.warning("optimization_plots.html goes without one plot: %r", error)
        html = render_report_elements(self.experiment_name, elements)
        write_atomic(Path(self.bayes_opt_root_experiment_folder) / "optimization_plots.html", html.encode())

    def _plot_model(self, ax_client: Any) -> Any:
        model = Models.GPEI(experiment=ax_client.experiment, data=ax_client.experiment.fetch_data())
        # A contour has axes for parameters of five values or more only, and fails with less than two of them.
        if len(get_range_parameters(model, min_num_values=5)) > 1:
            return interact_contour(model=model, metric_name=self.eval_primary_metric)
        return plot_slice(model, get_range_parameters(model)[0].name, self.eval_primary_metric)

    def try_resuming(self, YR: Any, reproduction: bool = False) -> Any:
        """As theirs, where errors of this package come out and half-saved models are not loaded."""
        name = YR.args.experiment_name
        try:
            if damaged := cut_off_folds(Path(self.get_sub_experiment_path(name))):
                raise OSError(f"it was killed while it saved {damaged[0]}")
            runner, fresh = self.get_single_experiment_runner(), self.starting_fresh(name)
            if reproduction:
                depths = {"max_merge_depth": 0, "max_argparse_merge_depth": 0}
                return runner.reproduce_results(YR, starting_fresh_hook=fresh, **depths)
            return runner.run_new_experiment_or_resume(YR)
        except Exception as error:
            _raise_if_ours(error)
            logger.warning("%s cannot go on and starts anew: %r", name, error)
        self.delete_sub_experiment_folder(name)
        # What was tried has consumed its settings; a reproduction starts anew with these.
        original = getattr(YR.args, "reproduce_results", None)
        YR.args = self.get_simplified_yaml_reader(name).args
        YR.args.resume_training, YR.args.reproduce_results = None, original
        return RESUME_FAILURE

    def run_new_experiment(self, parameters: Any, sub_experiment_name: str) -> Any:
        """As theirs, where a folder of a trial that no log knows is in nobody's way."""
        if Path(self.get_sub_experiment_path(sub_experiment_name)).exists():
            self.delete_sub_experiment_folder(sub_experiment_name)
        return super().run_new_experiment(parameters, sub_experiment_name)

    def delete_sub_experiment_folder(self, sub_experiment_name: str) -> None:
        """As theirs, also when there is no folder yet.

        The database comes first: a folder that it does not know cannot be resumed, so a deletion that was cut
        short is done again. The other way round, the name would be taken for ever.
        """
        keeper, _, _ = logging_presets.get_record_keeper(
            self.csv_folder, None, self.global_db_path, sub_experiment_name, False
        )
        keeper.record_writer.global_db.delete_experiment(sub_experiment_name)
        folder = Path(self.get_sub_experiment_path(sub_experiment_name))
        if folder.is_dir():
            shutil.rmtree(folder)

    def create_accuracy_report(self, best_sub_experiment_name: str) -> None:
        """As theirs, of the best trial and its reproductions alone; their pattern for trial 1 finds 10."""
        name = re.compile(re.escape(best_sub_experiment_name) + r"(_reproduction\d+)?")
        only = SimpleNamespace(
            glob=lambda pattern: [p for p in glob.glob(pattern) if name.fullmatch(Path(p).name)]
        )
        with mock.patch.object(theirs, "glob", only):
            super().create_accuracy_report(best_sub_experiment_name)

    def _drop_unfinished_configs(self) -> None:
        """Forget settings whose saving was cut off: the last file to be written is missing or empty."""
        flags, _ = self.setup_argparser().parse_known_args()
        configs = Path(self.root_experiment_folder) / flags.experiment_name / "configs"
        last = configs / f"{self.config_foldernames_base}.yaml"
        if configs.is_dir() and not (last.is_file() and last.stat().st_size):
            shutil.rmtree(configs)


def _check_bounds(parameters: list[dict[str, Any]], source: Path) -> None:
    if not parameters:
        raise ConfigError(
            f"no key of the settings in {source} ends in {', '.join(BAYESIAN_KEYWORDS[:-1])} or "
            f"{BAYESIAN_KEYWORDS[-1]}, so there is nothing to search.{_EXAMPLE}"
        )
    for parameter in parameters:
        bounds = parameter["bounds"]
        numbers = all(type(bound) in (int, float) for bound in bounds)
        if len(bounds) != 2 or not numbers or not bounds[0] < bounds[1]:
            raise ConfigError(
                f"{parameter['name']}: the bounds to search are two numbers, the lower one first, not "
                f"{bounds}.{_EXAMPLE}"
            )


def _raise_if_ours(error: BaseException) -> None:
    """Raise the SladeError that `error` is or hides; powerful-benchmarker raises bare ValueErrors over it."""
    hidden: BaseException | None = error
    while hidden is not None:
        if isinstance(hidden, SladeError):
            raise hidden
        hidden = hidden.__cause__ or hidden.__context__


def _plain_arrays(data: Any) -> Any:
    """Lists for plotly's base64 arrays: the plotly.js that ax's pages load cannot read those."""
    if isinstance(data, list):
        return [_plain_arrays(value) for value in data]
    if not isinstance(data, dict):
        return data
    if "bdata" not in data:
        return {key: _plain_arrays(value) for key, value in data.items()}
    array = np.frombuffer(base64.b64decode(data["bdata"]), dtype=np.dtype(data["dtype"]).newbyteorder("<"))
    shape = [int(n) for n in str(data.get("shape", len(array))).split(",")]
    return array.reshape(shape).tolist()


def _copy_arrays(init: Any) -> Any:
    """ax writes into the arrays of its observations, and those that pandas 3 gives are read-only."""

    def writable(self: Any, metric_names: list[str], means: np.ndarray, covariance: np.ndarray) -> None:
        init(self, metric_names, np.array(means), np.array(covariance))

    return writable


ObservationData.__init__ = _copy_arrays(ObservationData.__init__)

"""Folds of the labeled classes, with a test set that the dataset names."""

from __future__ import annotations

from typing import Any

import numpy as np
from powerful_benchmarker.split_managers import ClassDisjointSplitManager

from ..exceptions import DataError


class GivenTestSplitManager(ClassDisjointSplitManager):
    """Class-disjoint folds whose test set is `dataset.test_labels`, as where a split is official.

    The other classes make the folds, each the validation set once.

    Args:
        num_training_partitions: folds that the training classes are cut into.
        num_training_sets: how many of them are run.
        kwargs: as ClassDisjointSplitManager takes; `shuffle` and `random_seed` deal the classes at random.
    """

    def __init__(self, num_training_partitions: int, num_training_sets: int, **kwargs: Any) -> None:
        # The test's size and place are not used; zero keeps the parent from moving the classes round.
        super().__init__(
            num_training_partitions, num_training_sets, **{"test_size": 0, "test_start_idx": 0, **kwargs}
        )

    def get_trainval_and_test(self, dataset: Any, input_list: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split the classes; called by powerful-benchmarker."""
        if not hasattr(dataset, "test_labels"):
            raise DataError(
                f"split_manager: GivenTestSplitManager needs a dataset that names its test classes, and "
                f"{type(dataset).__name__} does not: use ClassDisjointSplitManager."
            )
        is_test = np.isin(input_list, dataset.test_labels)
        if (~is_test).sum() < self.num_training_partitions:
            raise DataError(
                f"split_manager: {(~is_test).sum()} training classes cannot make "
                f"num_training_partitions={self.num_training_partitions} folds."
            )
        return input_list[~is_test], input_list[is_test]

    def get_test_set_name(self) -> str:
        """Name of the test set in the folders of the folds."""
        return "GivenTest"

"""A small tree of every data set of the catalogue, in its official format."""

import pytest
from catalogue_trees import WRITERS


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("catalogue")
    for write in WRITERS.values():
        write(root)
    return root

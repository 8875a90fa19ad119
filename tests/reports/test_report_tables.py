"""Results as text: intervals by the textbook, and Markdown that renders."""

import math

import pytest
from scipy import stats

from pml_slade.evaluation import interval
from pml_slade.reports.tables import cell, markdown


@pytest.mark.parametrize("values", [[1.0, 2.0], [30.1, 30.4, 29.7], [5.0, 9.0, 2.0, 7.5, 6.0]])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_student_t_of_the_mean(values, confidence):
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    half = interval(values, confidence)
    center = sum(values) / len(values)
    assert math.isclose(center - half, low)
    assert math.isclose(center + half, high)


def test_the_interval_of_two_values_is_that_of_the_table():
    assert interval([0.0, 2.0]) == pytest.approx(12.706, abs=1e-3)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_interval(values):
    assert interval(values) is None


def test_equal_values_have_an_interval_of_zero():
    assert interval([4.0, 4.0, 4.0]) == 0.0
    assert cell([4.0, 4.0, 4.0]) == "4.0 ± 0.0"


def test_a_cell_shows_the_mean_and_half_the_interval_to_one_decimal():
    assert cell([30.06]) == "30.1"
    assert cell([0.0, 2.0]) == "1.0 ± 12.7"


def test_a_table_has_a_rule_and_a_line_per_row():
    lines = markdown(["row", "RP", "P@1"], [["Teacher", 1.5, "2.0"], ["SLADE", 3, "4.0"]]).splitlines()
    assert lines == [
        "| row | RP | P@1 |",
        "| :-- | --: | --: |",
        "| Teacher | 1.5 | 2.0 |",
        "| SLADE | 3 | 4.0 |",
    ]


def test_a_table_without_rows_is_a_header():
    assert markdown(["row"], []) == "| row |\n| :-- |"

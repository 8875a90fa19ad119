"""What a run says of its pool: the sign, how sure it is, and what to do."""

import numpy as np
import pytest

from pml_slade.methods import find_method
from pml_slade.running.pool import PoolFacts
from pml_slade.running.rows import Result
from pml_slade.running.verdict import verdict


def result(row, *by_class):
    score = {"MAP@R": float(np.mean(by_class))} if by_class else None
    return Result(row, find_method(row).title, 10, 20, score, None, "m", list(by_class) or None)


def said(*results):
    return verdict(results, [find_method(r.row) for r in results])


def test_a_gain_is_said_with_its_interval():
    text = said(
        result("start", 10, 20, 30), result("teacher", 5, 6, 7), result("slade", 14, 25, 33),
        result("oracle", 50, 50, 50),
    )  # fmt: skip
    assert text == (
        "On 3 validation classes SLADE has 24.0 MAP@R, and Start (before training), the best row "
        "without the pool, 20.0: +4.0 ± 2.5. The pool helped: take SLADE."
    )


def test_a_loss_says_what_to_try_and_what_true_labels_would_have_given():
    rows = result("control", 10, 20, 30), result("slade", 6, 15, 27)
    text = said(*rows, result("oracle", 14, 25, 33))
    assert (
        "-4.0 ± 2.5. The pool did not help here: take Control (labels only), which is the run's model."
        in text
    )
    assert "data.image_size" in text
    assert text.endswith("True labels of the pool would have gained +4.0 ± 2.5.")
    assert said(*rows, result("oracle", 9, 20, 30)).endswith("would not have helped either (-0.3 ± 1.4).")


@pytest.mark.parametrize(
    ("right", "slade", "ends"),
    [
        (
            52.4,
            (14, 25, 33),
            "take SLADE. Of an image's nearest neighbours in the pool, about 52 % show its class.",
        ),
        (12.0, (14, 25, 33), "about 12 % show its class."),
        (52.4, (6, 15, 27), "about 52 % show its class."),
        (12.0, (6, 15, 27), "so few teach little. A trunk that knows such images finds more."),
    ],
)
def test_it_says_how_far_neighbours_can_be_trusted(right, slade, ends):
    rows = result("control", 10, 20, 30), result("slade", *slade)
    told = verdict(rows, [find_method(r.row) for r in rows], PoolFacts("these", 100, 90, right))
    assert told.endswith(ends)


def test_what_can_be_chance_is_called_so():
    assert "can be chance. More validation classes" in said(
        result("control", 1, 9, 5), result("slade", 9, 2, 7)
    )
    assert "One class gives no interval" in said(result("control", 1), result("slade", 2))


def test_without_validation_it_says_what_to_give():
    assert "Give data.validation" in said(result("teacher"), result("slade"))


@pytest.mark.parametrize("rows", [("teacher", "control"), ("slade",)])
def test_where_there_is_nothing_to_compare_it_is_silent(rows):
    assert said(*(result(row, 1, 2) for row in rows)) == ""

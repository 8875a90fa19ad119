"""Every case of the fault bench, and its page."""

import pytest
from faults import reliability
from faults.bench import CASES, TABLES, Bench

pytestmark = pytest.mark.once("processes of the command line")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench").resolve())


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_what_is_tried_is_told_in_one_line(case, bench):
    said = case.run(bench)
    if said is None:
        pytest.skip(reliability.NOT_HERE)
    assert "\n" not in said
    assert "Traceback" not in said


def test_the_page_has_a_row_for_each_case_and_none_without_an_outcome():
    rows = [line for line in reliability.PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| kind", "| :--"))]
    found = [tuple(row.strip("| ").split(" | ", 2)) for row in rows]
    cases = [case for table in TABLES for case in CASES.values() if case.table == table]
    assert [row[:2] for row in found] == [(case.kind, case.tried) for case in cases]
    outcomes = [outcome for *_, outcome in found]
    assert all(outcomes)
    assert reliability.NOT_HERE not in outcomes


def test_the_page_is_what_its_command_makes_of_these_outcomes():
    text = reliability.PAGE.read_text()
    outcomes = {}
    for row in text.splitlines():
        kind, _, rest = row.strip("| ").partition(" | ")
        tried, _, outcome = rest.partition(" | ")
        outcomes[kind, tried] = outcome
    assert reliability.page([outcomes[c.kind, c.tried] for c in CASES.values()]) == text

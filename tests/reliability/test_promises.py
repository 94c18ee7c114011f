"""The recorder itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page import page, read
from promises import MOST_LOSSES, on_trial


def test_a_lost_trial_fails_the_test_and_stands_in_the_page(tmp_path):
    results = tmp_path / "results.jsonl"
    given = {"test": "tests/reliability/test_x.py::test_y", "about": "Some faults.", "size": "full", "results": results}
    with (
        pytest.raises(
            AssertionError, match=r"(?s)all is well: lost in 1 of 3 trials.*seed 1: ValueError: no"
        ) as caught,
        on_trial("all is well", **given) as promise,
    ):
        for seed in range(3):
            with promise.trial(f"seed {seed}"):
                if seed == 1:
                    raise ValueError("no")
    assert isinstance(caught.value.__cause__, ValueError)
    with on_trial("a | b", **given) as promise:
        promise.held(1000)
    (lost, held) = read(results)
    assert (lost["trials"], lost["losses"], lost["lost"]) == (3, 1, ["seed 1: ValueError: no"])
    said = page([lost, held])
    assert "## Some faults\n" in said
    assert "| all is well | 3 | 1 (seed 1: ValueError: no) |" in said
    assert "| a \\| b | 1,000 | 0 |" in said and "[`test_y`](../tests/reliability/test_x.py)" in said
    assert "Together 1,003 trials of 2 promises, 1 losses" in said


def test_a_promise_that_is_never_tried_fails(tmp_path):
    given = {"test": "x::y", "about": "x", "size": "quick", "results": tmp_path / "results.jsonl"}
    with pytest.raises(AssertionError, match="nothing was tried"), on_trial("all is well", **given):
        pass
    with pytest.raises(KeyError), on_trial("it never breaks", **given) as promise:
        promise.held()
        raise KeyError("broken")
    with pytest.raises(pytest.skip.Exception), on_trial("it can be tried", **given):
        pytest.skip("no compiler here")
    said = [json.loads(line) for line in given["results"].read_text().splitlines()]
    assert [record["losses"] for record in said] == [0, 1, 0]
    assert said[2]["skipped"] == "no compiler here"
    assert "| it can be tried | not run | | | [`y`](../x) (quick run): no compiler here |" in page(said)


def test_a_hopeless_promise_is_given_up(tmp_path):
    with (
        pytest.raises(AssertionError, match=f"lost in {MOST_LOSSES} of {MOST_LOSSES} trials"),
        on_trial("all is well", test="x::y", about="x", size="quick", results=None) as promise,
    ):
        for seed in range(1000):
            with promise.trial(seed):
                raise ValueError


def test_the_last_record_of_a_promise_counts(tmp_path):
    results = tmp_path / "results.jsonl"
    for trials in (1, 2):
        with on_trial("all is well", test="x::y", about="x", size="full", results=results) as promise:
            promise.held(trials)
    assert [record["trials"] for record in read(results)] == [2]


def test_the_page_says_what_the_results_say(request):
    if request.config.getoption("--results"):
        pytest.skip("the results are being written")
    root = Path(__file__).parents[2]
    records = read(root / "docs" / "reliability.jsonl")
    assert (root / "docs" / "reliability.md").read_text(encoding="utf-8") == page(records)
    assert not sum(record["losses"] for record in records)
    for record in records:
        file, _, test = record["test"].partition("::")
        text = (root / file).read_text(encoding="utf-8")  # the test is still there
        assert not test or re.search(rf"^def {test.partition('[')[0]}\(", text, re.MULTILINE), record["test"]

"""One label spelled differently in two tables is one label; what is ambiguous is refused with both spellings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_caches import blobs, make_cache
from test_model_folder import default_cache

from pipeline.errors import LabelError
from pipeline.evaluation import evaluate
from pipeline.evaluation.dataset import LabelConfig, load_labels
from pipeline.evaluation.tasks import build_tasks, codes_of
from pipeline.images.values import plain_spelling, value_key, value_text
from pipeline.labels import match, read_label_table
from pipeline.model import fit

QUICK = {"heads": "centroid", "cv": 2, "n_jobs": 1}


def test_typed_values_have_the_text_of_a_table() -> None:
    typed = [1, 1.0, np.float32(0.5), True, np.bool_(False), " a ", 7, np.int64(3), [1, "b"], ("x",), np.array(2)]
    texts = ["1", "1", "0.5", "true", "false", "a", "7", "3", '["1", "b"]', '["x"]', "2"]
    assert [value_text(value) for value in typed] == texts


@given(st.integers(-(10**25), 10**25), st.sampled_from(["{}", "{}.0", "{}.000", "{}e0", "{}."]))
def test_every_spelling_of_a_whole_number_has_one_key_and_one_plain_spelling(number: int, form: str) -> None:
    text = form.format(number)
    assert value_key(text) == value_key(str(number))
    assert plain_spelling(text) == str(number)


@given(st.text(st.sampled_from("0123456789.eE+-tTrRuUeE "), max_size=8).map(str.strip))
def test_a_plain_spelling_means_the_same_value(text: str) -> None:
    assert value_key(plain_spelling(text)) == value_key(text)


@pytest.mark.parametrize(
    ("classes", "texts", "found"),
    [
        (("0.0", "1.0"), ["0", "1", "1.00"], ["0.0", "1.0", "1.0"]),
        (("false", "true"), ["False", "TRUE", "true"], ["false", "true", "true"]),
        (("007", "7"), ["007", "7", "7.0"], ["007", "7", "7"]),
        (("a",), ["b", "9", "9.0"], ["b", "9", "9"]),  # an unknown class is one class, too
    ],
)
def test_spellings_of_a_class_are_that_class(classes: tuple[str, ...], texts: list[str], found: list[str]) -> None:
    chosen = match(texts, classes)
    assert [chosen[text] for text in texts] == found


@pytest.mark.parametrize(
    ("classes", "text", "how"),
    [
        (("Bee", "ant"), "bee", "only in case"),
        (("red deer",), "red\xa0deer", "only in spaces or case"),
        (("007", "012"), "7", "only in leading zeros"),
        (("7", "12"), "007", "only in leading zeros"),
        (("0", "1"), "True", "only in that one is a truth value and the other a number"),
    ],
)
def test_what_may_be_a_slip_or_another_class_is_refused(classes: tuple[str, ...], text: str, how: str) -> None:
    with pytest.raises(LabelError) as caught:
        match([text], classes)
    assert repr(text) in caught.value.message and how in caught.value.message
    assert any(repr(name) in caught.value.message for name in classes)


def test_a_model_scores_a_table_that_spells_its_classes_differently(tmp_path: Path) -> None:
    X, y = blobs(24, d=8, classes=2, apart=6.0)
    made = default_cache(tmp_path / "a.h5", X, {})
    model = fit(made, labels={"sick": dict(zip(made.ids, (f"{float(v)}" for v in y), strict=True))}, **QUICK)
    assert model.classes == ("0.0", "1.0")
    table = tmp_path / "whole.csv"
    table.write_text("id,sick\n" + "".join(f"{name},{value}\n" for name, value in zip(made.ids, y, strict=True)))
    found = model.score(made, table, n_jobs=1)
    assert found.unknown_classes == {}
    assert {score.scoring: score.value for score in found.scores}["accuracy"] == 1.0
    assert (
        "sick: '0' in 12 images is read as '0.0', another spelling of the same value (and 1 more spellings)"
        in found.notes
    )


def test_a_test_set_is_read_in_the_spelling_of_training(tmp_path: Path) -> None:
    X, y = blobs(24, d=4, classes=2, apart=6.0)
    made = make_cache(tmp_path / "a.h5", X, {"sick": [str(float(v)) for v in y]})
    other = make_cache(tmp_path / "b.h5", X + 0.1, {"sick": [str(int(v)) for v in y]}, name="b")
    run = evaluate(made, test=other, **QUICK)
    assert run.best().test == 1.0
    assert any(note.startswith("b: sick: '0' in 12 images is read as '0.0'") for note in run.notes)


def test_tags_are_read_in_the_spelling_and_with_the_separator_of_their_own_table() -> None:
    ids = ["a", "b", "c"]
    y, unknown = codes_of(["1|TRUE", "|", "true"], ids, "multi", ("1.0", "true"), separator=";")
    assert y.tolist() == [[1, 1], [0, 0], [0, 1]] and not unknown
    y, unknown = codes_of(['["1.0"]', "[]", "{true}"], ids, "multi", ("1.0", "true"), separator=";")
    assert y.tolist() == [[1, 0], [0, 0], [0, 1]] and not unknown


def test_rows_of_one_id_agree_where_they_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,sick\na.jpg,1\na.jpg,1.0\nb.jpg,True\nb.jpg,true\n")
    assert read_label_table(path) == {"sick": {"a.jpg": "1", "b.jpg": "True"}}


def test_a_group_spelled_in_two_ways_is_one_group(tmp_path: Path) -> None:
    X, y = blobs(24, d=4, classes=2, apart=6.0)
    patients = [f"{row % 6}" if row < 12 else f"{float(row % 6)}" for row in range(24)]
    made = make_cache(tmp_path / "a.h5", X, {"kind": [f"k{v}" for v in y], "patient": patients})
    known = load_labels(made, LabelConfig(beside=("patient",)))
    train = build_tasks(known, column=["kind"], groups="patient")[0].train
    assert train.groups is not None and train.groups.tolist() == [str(row % 6) for row in range(24)]
    other = make_cache(tmp_path / "b.h5", X, {"kind": [f"k{v}" for v in y], "patient": ["5.0"] * 24}, name="b")
    test = load_labels(other, LabelConfig(beside=("patient",)))
    question = build_tasks(known, column=["kind"], groups="patient", test=test)[0]
    assert question.test is not None and question.test.groups is not None and set(question.test.groups) == {"5"}
    assert any("lies on both sides of the fixed split, e.g. 5" in note for note in question.notes)

"""Cells of a CSV: no spreadsheet runs them, and our own reader gives back what they said."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_caches import blobs, make_cache, names

from pipeline.cli.use import _write_predictions
from pipeline.errors import PipelineError
from pipeline.evaluation import evaluate
from pipeline.images import clean_text, read_text_table
from pipeline.images.table import csv_text, read_cell, safe_cell

NASTY = st.text(st.sampled_from("=+-@'\t\r\n;, a1.é\""), max_size=8) | st.text(max_size=5)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+49 30 1234", "'+49 30 1234"),
        ("-x", "-x"),
        ("+", "+"),
        ("-", "-"),
        ("=", "="),
        ("--", "--"),
        ("-dash.png", "-dash.png"),
        ("-dash/photo 1.png", "-dash/photo 1.png"),
        ("@home", "@home"),
        ("'-dash.png", "''-dash.png"),
        ("=x", "'=x"),
        ("-A1", "'-A1"),
        ("+R1C1", "'+R1C1"),
        ("-true", "'-true"),
        ("-2-3", "'-2-3"),
        ("-2+3+cmd|' /C calc'!D2", "'-2+3+cmd|' /C calc'!D2"),
        ("-dash(1).png", "'-dash(1).png"),
        ('+HYPERLINK("http://x")', """'+HYPERLINK("http://x")"""),
        ("-x!y", "'-x!y"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\r'=1"),
        ("a;=1", "a;'=1"),
        ("'=1", "''=1"),
        ("-1.5", "-1.5"),
        ("+2e-3", "+2e-3"),
        ("-inf", "-inf"),
        ("a-b", "a-b"),
        ("'tis", "'tis"),
        ("", ""),
    ],
)
def test_what_would_be_run_is_text_and_numbers_stay_numbers(text, written):
    assert safe_cell(text) == written
    assert read_cell(written) == text


@settings(deadline=None)
@given(NASTY)
def test_any_text_comes_back(text):
    written = safe_cell(text)
    assert read_cell(written) == text
    starts = [start for start in re.split(r"[;\t\r\n]", written) if start[:1] and start[0] in "=+-@"]
    if not re.fullmatch(r"[+-][\d.eE+-]+", written):
        # Nothing that calls, links or quotes, and nothing after an equals sign.
        assert all(re.fullmatch(r"[=+\-@]*|[+\-@][\w.\-/ ]*", start) for start in starts)


@settings(deadline=None)
@given(st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=5))
def test_a_table_that_we_wrote_is_read_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "x.csv"
    table = pd.DataFrame(
        {"id": [f"={row}" for row in range(len(rows))], "=a": [a for a, _ in rows], "b": [b for _, b in rows]}
    )
    try:
        content = csv_text(table).encode()
    except UnicodeEncodeError:
        return  # half a letter
    path.write_bytes(content)
    assert read_text_table(path) == {
        "id": table["id"].tolist(),
        "=a": [_told(a) for a, _ in rows],
        "b": [_told(b) for _, b in rows],
    }


def _told(text: str) -> str | None:
    text = clean_text(text)
    return None if text in ("", "NA", "nan", "NaN") else text


def test_old_files_with_more_apostrophes_are_read_as_they_were_meant():
    assert read_cell("'-dash.png") == "-dash.png" and read_cell("'+") == "+"


def test_plain_cells_are_written_as_they_are(tmp_path: Path):
    table = pd.DataFrame({"id": ["=1+1", "-dash.png"], "=a": ["@SUM(A1)", "+"]})
    assert csv_text(table, csv="plain") == table.to_csv(index=False)
    _write_predictions(table, tmp_path / "plain.csv", "csv", "plain")
    assert pd.read_csv(tmp_path / "plain.csv")["id"].tolist() == ["=1+1", "-dash.png"]
    with pytest.raises(PipelineError, match="--csv: expected safe or plain, got 'raw'"):
        csv_text(table, csv="raw")


def test_answers_merge_with_the_table_that_they_are_about():
    answers = pd.DataFrame({"id": ["-dash.png", "+", "-", "a-b"], "n": range(4)})
    read = pd.read_csv(io.StringIO(csv_text(answers)))
    assert len(read.merge(answers, on="id")) == 4


def test_numbers_are_written_as_numbers():
    table = pd.DataFrame({"id": ["-1.5"], "value": [-1.5], "n": [-3], "none": [np.nan]})
    assert csv_text(table, float_format="%.6g") == table.to_csv(index=False, float_format="%.6g")


def test_answers_and_leaderboards_hold_nothing_that_is_run(tmp_path: Path):
    answers = pd.DataFrame(
        {"id": ["=cmd|' /C calc'!A0.png", "b.png"], "label": ["@SUM(A1)", "y"], "probability": [0.5, 0.25]}
    )
    _write_predictions(answers, tmp_path / "answers.csv", "csv")
    X, y = blobs(24, apart=3.0)
    made = make_cache(tmp_path / "a.h5", X, {"=kind": names(y)}, name="=photos")
    evaluate(made, heads="ridge", cv=2, n_jobs=1).save(tmp_path / "run")
    for path in (tmp_path / "answers.csv", tmp_path / "run" / "leaderboard.csv"):
        cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
        assert any(cell.startswith("'=") for cell in cells)
        run = [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"-?[\d.e-]+", cell)]
        assert run == []
    assert read_text_table(tmp_path / "answers.csv")["id"][0] == "=cmd|' /C calc'!A0.png"

"""Label tables, right and wrong."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.labels import join_labels, read_label_table

Table = dict[str, list[str | None]]

IDS = ["a.jpg", "b/a.jpg", "b/é.png", "c d.tif", "=x.png", "-1.5", "0007", "NA.png"]

_NAMES = st.sampled_from(["id", "path", "File", "image", "label", "Label ", "size", "", "=cmd", "a;b", "id "])
_IDS = st.sampled_from([
    *IDS, "./a.jpg", "b\\a.jpg", " a.jpg ", "b/e\u0301.png", "'=x.png", "'-1.5", "x.jpg", "", "NA",
    "../a.jpg", "/a.jpg", "a.jpg\0",
])  # fmt: skip
_CELLS = st.one_of(
    st.sampled_from([
        "ant", "bee", "007", "1.0", "", "NA", "nan", " ", "=1+1", "'=1+1", "''=1", "-1.5", "'-x", "+a", "@b", "a;-b",
        "a;'-b",
        "e\u0301", "\t=x", "two\nlines", 'a "quoted"', "x,y", "x;y", "'", "\ufeff", "\0", "NaN", "None",
    ]),
    st.text(max_size=6),
)  # fmt: skip


_KEYS = ("id", "path", "file", "filename", "image", "filepath")
_KINDS = [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t"), (".CSV", ",")]


@dataclass(frozen=True)
class Drawn:
    """The bytes of a table."""

    content: bytes
    suffix: str


@st.composite
def tables(draw: st.DrawFn) -> Drawn:
    """A table that a person, a spreadsheet or a bad disk may have written."""
    names = ["id", *draw(st.lists(_NAMES, min_size=1, max_size=3, unique_by=str.strip))]
    if not draw(st.integers(0, 3)):  # two columns of one name, or no ids
        names = draw(st.lists(_NAMES, min_size=1, max_size=4))
    names = draw(st.permutations(names))
    keys = draw(st.lists(_IDS, max_size=6, unique_by=None if not draw(st.integers(0, 2)) else _id))
    rows = [[key if name.strip().lower() in _KEYS else draw(_CELLS) for name in names] for key in keys]
    if rows and not draw(st.integers(0, 5)):  # a line too long or too short
        row = draw(st.sampled_from(rows))
        del row[-1:]
        row += draw(st.lists(_CELLS, max_size=2))
    suffix, separator = draw(st.sampled_from(_KINDS))
    line_end = draw(st.sampled_from(["\n", "\r\n"]))
    file = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(file, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerow(names)
    writer.writerows(rows)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"]))
    content = file.getvalue().encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    if not draw(st.integers(0, 7)):  # damage
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=3)) + content[at + draw(st.integers(0, 3)) :]
    return Drawn(content, suffix)


ID_ORDER = ("id", "path", "file", "filename", "image", "filepath", "file_name")
ID_NAMES = set(ID_ORDER)


def oracle(content: bytes, suffix: str, ids: Sequence[str]) -> Table | None:
    """Return the right join, by nothing but `csv` and dicts; None where the table is to be refused."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    try:
        text = content.decode("utf-8-sig")
        separator = "\t" if suffix == ".tsv" else _separator(text)
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        return None
    if len(lines) < 2 or any(len(row) != len(lines[0]) for row in lines):
        return None
    names = [_clean(_plain(name)) or f"column_{place}" for place, name in enumerate(lines[0], 1)]
    if len(set(names)) < len(names) or len(names) < 2:
        return None
    lower = [name.lower() for name in names]
    key = next((lower.index(name) for name in ID_ORDER if name in lower), None)
    if key is None:
        return None
    said: dict[str, dict[str, str | None]] = {}
    for row in lines[1:]:
        cells = [_clean(_plain(cell)) for cell in row]
        values = [None if cell in ("", "NA", "nan", "NaN") else cell for cell in cells]
        if values[key] is None:
            continue
        mine = said.setdefault(_id(values[key]), dict.fromkeys(names))
        for name, value in zip(names, values, strict=True):
            if name == names[key] or value is None:
                continue
            if mine[name] is not None and mine[name] != value:
                return None
            mine[name] = value
    if not said.keys() & {_id(one) for one in ids}:
        return None
    return {name: [said.get(_id(one), {}).get(name) for one in ids] for name in names if name != names[key]}


def _separator(text: str) -> str:
    """Return the separator that makes a table of the text: rows of one length, an id column, the most columns."""
    found = []
    for one in ",;\t|":
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=one) if row][:50]
        except csv.Error:
            rows = []
        if rows and len(rows[0]) > 1:
            odd, names = len({len(row) for row in rows}) > 1, [name.strip().lower() for name in rows[0]]
            found.append((odd, not ID_NAMES & set(names), '"' in "".join(names), -len(names), ",;\t|".index(one)))
    return ",;\t|"[min(found)[-1]] if found else ","


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _id(text: str) -> str:
    text = _clean(text).replace("\\", "/")
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    return text


def _plain(cell: str) -> str:
    """Take away the apostrophe that keeps a spreadsheet from running what follows it."""
    pieces = re.split(r"([;\t\r\n])", cell)  # a piece, a separator, a piece, ...
    for at in range(0, len(pieces), 2):
        following = "".join(pieces[at + 1 : at + 2])
        if pieces[at].startswith("'") and (pieces[at].lstrip("'") or following)[:1] in tuple("=+-@\t\r"):
            pieces[at] = pieces[at][1:]
    return "".join(pieces)


def test_a_label_table_is_joined_right_or_refused_precisely(promise, size, tmp_path):
    with promise("a label table gives the right join, or an error that names it and the next step") as on_trial:

        @settings(
            max_examples=size(quick=400, full=5_000),
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(tables())
        def holds(drawn: Drawn) -> None:
            on_trial.held()
            path = tmp_path / f"labels{drawn.suffix}"
            path.write_bytes(drawn.content)
            wanted = oracle(drawn.content, drawn.suffix.lower(), IDS)
            assert _joined(path) == wanted
            if wanted is not None:
                accepted.append(1)

        accepted: list[int] = []
        holds()
        assert 10 * len(accepted) > on_trial.trials, "tables that are all refused prove little"


def _joined(path: Path) -> Table | None:
    try:
        return dict(join_labels(IDS, read_label_table(path)))
    except PipelineError as error:
        assert str(path) in error.message and error.next_step
        return None

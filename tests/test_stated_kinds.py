"""A source states which of its columns are classes: class folders, `.cls` members and ClassLabel columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fake_backbone import Extractor, folder_of
from made_caches import make_cache
from pyarrow import parquet
from tars import write_tar
from test_images import photo_bytes, put

from pipeline.cache import FeatureCache
from pipeline.cache.feature_cache import PartsHeader
from pipeline.errors import SourceError
from pipeline.evaluation import evaluate
from pipeline.evaluation.dataset import LabelConfig, load_labels
from pipeline.evaluation.tasks import build_tasks
from pipeline.images import ImageSource
from pipeline.labels import label_sets, read_label_table

QUICK = {"heads": "centroid", "cv": 2, "n_jobs": 1}


def kind_and_classes(source: ImageSource | FeatureCache, column: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    (question,) = build_tasks(load_labels(source, LabelConfig()), column=column)
    return question.kind, question.classes


@pytest.mark.parametrize(
    "names", [[str(n) for n in range(23)], ["0.5", "1.0", "2.5"], [f"2024-01-{d:02d}" for d in range(1, 25)]]
)
def test_class_folders_are_classes_whatever_they_are_called(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        for photo in range(2):
            put(tmp_path / "signs" / name / f"{photo}.png")
    source = ImageSource.open(tmp_path / "signs")
    assert source.kinds == {"label": "class"}
    assert kind_and_classes(source) == ("class", tuple(names))
    assert source.take(range(4)).kinds == source.share(1, 2).kinds == {"label": "class"}
    assert kind_and_classes(source, ("label:class",))[0] == "class"
    if "-" not in names[0]:
        assert kind_and_classes(source, ("label:number",)) == ("number", ())


def test_cls_members_are_classes(tmp_path: Path) -> None:
    pairs = [((f"{i:03d}.png", photo_bytes(i)), (f"{i:03d}.cls", str(i % 24).encode())) for i in range(72)]
    members = [member for pair in pairs for member in pair]
    source = ImageSource.open(write_tar(tmp_path / "a.tar", members))
    assert kind_and_classes(source) == ("class", tuple(str(n) for n in range(24)))
    write_tar(tmp_path / "b.tar", members[:48])
    write_tar(tmp_path / "c.tar", members[48:])
    both = ImageSource.open([tmp_path / "b.tar", tmp_path / "c.tar"])
    assert both.kinds == {"label": "class"} and kind_and_classes(both)[0] == "class"


def hugging_face(path: Path, labels: list[int | None], names: object, **columns: pa.Array) -> Path:
    images = pa.array([{"bytes": photo_bytes(i), "path": f"{i}.png"} for i in range(len(labels))],
                      pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64()), **columns})
    about = {"info": {"features": {
        "label": {"names": names, "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["red", "big"], "_type": "ClassLabel"}, "_type": "Sequence"},
    }}}  # fmt: skip
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)
    return path


@pytest.mark.parametrize("names", [["ant", "bee"], {"0": "ant", "1": "bee"}])
def test_class_label_names_replace_the_numbers(tmp_path: Path, names: object) -> None:
    source = ImageSource.open(hugging_face(tmp_path / "a.parquet", [0, 1, -1, None], names))
    assert source.columns["label"] == ["ant", "bee", None, None]
    assert source.kinds == {"label": "class"}


def test_a_number_without_a_name_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"column 'label': row 2: expected a class number from 0 to 1, got 2"):
        ImageSource.open(hugging_face(tmp_path / "a.parquet", [0, 2], ["ant", "bee"]))


def test_names_count_in_a_label_table_and_lists_of_them_are_tags(tmp_path: Path) -> None:
    tags = pa.array([[0, 1], [], [1], None], pa.list_(pa.int64()))
    source = ImageSource.open(hugging_face(tmp_path / "a.parquet", [0, 1, 0, 1], ["ant", "bee"], tags=tags))
    assert source.columns["tags"] == ['["red", "big"]', "[]", '["big"]', None]
    assert source.kinds == {"label": "class", "tags": "multi"}
    found = label_sets(source.ids, source.columns, column=["tags"], kinds=source.kinds)[0]
    assert (found.kind, found.classes, found.y.tolist()) == ("multi", ("big", "red"), [[1, 1], [0, 0], [1, 0]])
    taken = label_sets(source.ids, source.columns, kinds=source.kinds)  # next to other columns it must be asked for
    assert [one.name for one in taken] == ["label"]
    assert taken.skipped[0].reason == "its cells are lists"

    table = pa.table({"id": ["a.png", "b.png"], "label": pa.array([1, 0])})
    about = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "t.parquet")
    read = read_label_table(tmp_path / "t.parquet")
    assert read == {"label": {"a.png": "bee", "b.png": "ant"}} and read.kinds == {"label": "class"}


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": {"features": []}}', b'{"info": {"features": {"label": 3}}}']
)
def test_other_metadata_is_passed_over(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"id": ["a", "b"], "image": [photo_bytes(1), photo_bytes(2)], "label": [3, 4]})
    parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "t.parquet")
    assert ImageSource.open(tmp_path / "t.parquet").columns == {"label": ["3", "4"]}


def test_shards_with_and_without_names_are_refused(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a.parquet", [0, 1], ["ant", "bee"])
    image = [{"bytes": photo_bytes(9), "path": "z.png"}]
    parquet.write_table(pa.table({"image": image, "label": [1]}), tmp_path / "b.parquet")
    with pytest.raises(
        SourceError, match=r"expected class names in column 'label' of all 2 shards, got names in .*a\.parquet"
    ):
        ImageSource.open([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_a_pandas_categorical_of_numbers_is_classes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [f"{i}.jpg" for i in range(48)], "plot": pd.Categorical([*range(24)] * 2), "n": 1})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_label_table(tmp_path / "t.parquet").kinds == {"plot": "class"}


def folder_cache(path: Path) -> FeatureCache:
    X = np.random.default_rng(0).normal(size=(184, 4)).astype(np.float32)
    ids = sorted(f"{row % 23}/{row}.jpg" for row in range(184))
    return make_cache(path, X, {"label": [name.split("/")[0] for name in ids]}, ids=ids)


def test_an_older_cache_tells_class_folders_by_its_ids(tmp_path: Path) -> None:
    cache = folder_cache(tmp_path / "a.h5")
    assert "kinds" not in cache.provenance and cache.kinds == {"label": "class"}
    assert kind_and_classes(cache) == ("class", tuple(str(n) for n in range(23)))
    texts = [str(row % 23) for row in range(46)]
    assert make_cache(tmp_path / "b.h5", np.eye(46, 8), {"label": texts}).kinds == {}


def test_a_cache_in_parts_states_what_its_parts_state(tmp_path: Path) -> None:
    headers = []
    for number in (1, 2):
        part = make_cache(
            tmp_path / f"{number}.h5", np.eye(4), {"label": list("1234")}, ids=[f"{number}{i}" for i in "abcd"]
        )
        whole = {"place": "/made/all", "source": "all", "number": number, "of": 2}
        stated = {"kinds": {"label": "class"}} if number == 2 else {}
        provenance = {**part.provenance, "place": str(number), "part": whole, **stated}
        headers.append(replace(part._header, provenance=provenance))  # type: ignore[type-var]
    assert FeatureCache(PartsHeader(tmp_path, headers)).kinds == {"label": "class"}  # type: ignore[arg-type]


def test_a_cache_records_what_its_source_stated(run: Extractor, tmp_path: Path) -> None:
    members = [member for i in range(6) for member in ((f"{i}.png", photo_bytes(i)), (f"{i}.cls", b"%d" % (i % 2)))]
    made = run(write_tar(tmp_path / "a.tar", members))
    assert made.provenance["kinds"] == {"label": "class"} == made.kinds
    # A table over class folders whose labels are the folders' names: the table states nothing.
    folder_of(tmp_path / "photos", range(4))
    rows = [f"c{i % 2}/{i:05d}.png,c{i % 2}" for i in range(4)]
    (tmp_path / "photos" / "t.csv").write_text("\n".join(["id,label", *rows]))
    assert run(tmp_path / "photos" / "t.csv").kinds == {}


def test_kinds_that_nobody_states_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(tmp_path / "a.h5", np.eye(4), {"label": list("1234")})
    stated = {"label": "class", "odd": ["x"], "other": "number"}
    monkeypatch.setitem(cache.provenance, "kinds", stated)  # type: ignore[arg-type]
    assert cache.kinds == {"label": "class"}


def test_a_table_column_of_whole_numbers_says_how_it_is_read_and_what_else_there_is() -> None:
    ids = [f"{row}.jpg" for row in range(46)]
    many = label_sets(ids, {"count": [str(row % 23) for row in range(46)]})[0]
    assert many.kind == "number"
    note = "count: 23 different whole numbers are read as numbers; --column count:class reads them as classes"
    assert note in many.joined.notes
    few = label_sets(ids, {"count": [str(row % 3) for row in range(46)]})[0]
    note = "count: 3 different whole numbers are read as classes; --column count:number reads them as numbers"
    assert few.kind == "class" and note in few.joined.notes
    asked = label_sets(ids, {"count": [str(row % 23) for row in range(46)]}, column=["count:number"])[0]
    assert asked.notes == ()


def test_the_interpretation_stands_before_anything_else(tmp_path: Path) -> None:
    from commands import done

    texts = [str(row % 22) for row in range(66)]
    X = np.random.default_rng(0).normal(size=(66, 4)).astype(np.float32)
    make_cache(tmp_path / "a.h5", X, {"count": texts, "half": [str(int(t) // 11) for t in texts]})
    words = ["evaluate", tmp_path / "a.h5", "--head", "dummy", "--cv", "2", "--jobs", "1", "--out", tmp_path / "run"]
    lines = done(*words, "--column", "count").err.splitlines()
    assert (
        lines[0]
        == "note: count: 22 different whole numbers are read as numbers; --column count:class reads them as classes"
    )
    lines = done(*words[:-1], tmp_path / "both").err.splitlines()
    told = [line for line in lines[:8] if "whole numbers are read as" in line]
    assert told == [
        "note: whole numbers are read as classes in half; --column half:number reads them as numbers",
        "note: whole numbers are read as numbers in count; --column count:class reads them as classes",
    ]


def test_numbered_folders_are_evaluated_as_classes(tmp_path: Path) -> None:
    run = evaluate(folder_cache(tmp_path / "a.h5"), **QUICK)
    assert run.label_sets[0].kind == "class" and len(run.label_sets[0].classes) == 23

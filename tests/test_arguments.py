"""Every wrong argument of a public function is a `PipelineError` of two parts, before any work is done."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_images import put

import pipeline as pl
from pipeline.arguments import bind_arguments, describe, fits
from pipeline.errors import PipelineError
from pipeline.report.html.write import open_run
from pipeline.server import serve

WRONG: dict[str, list[Any]] = {
    "data": [5, None, b"x", {}, [], [3], True, object(), "missing", np.zeros(3)],
    "backbone": [7, None, "nothing"],
    "layer": [3, [3], {}, "nothing"],
    "cache": [5, None],
    "precision": ["int8", 5],
    "store": ["int8", 5],
    "decode": ["x", 5],
    "batch_size": ["a", 0, 1.5, True],
    "on_error": ["x", 5],
    "labels": [5, True, b"x", len, "missing.csv", "t.csv:Sheet"],
    "id_column": [3, "nothing"],
    "root": [3, "missing"],
    "column": [3, [3], {"k": 1}, "nothing"],
    "groups": [4, "nothing"],
    "split": [4, "nothing"],
    "test": [5, "missing"],
    "heads": [3, [3], {"a": 1}, object(), int, "nothing"],
    "head": [3, object(), "nothing"],
    "grid": [7, [7], "x", ["x"], {"a": 1}, {"logistic.nothing": [1]}],
    "cv": ["x", 1.5, 1, 0, True, None],
    "nested": ["x", 2],
    "scoring": [5, [5], "nothing"],
    "label_level": ["x", 1.5],
    "min_class_size": ["x", 1.5],
    "missing": [3, [3]],
    "run": [3, b"x"],
    "time_limit": ["x", 0],
    "most_labels": ["x", 0],
    "budget": ["x", 0],
    "out": [3, b"x"],
    "device": [3, "x"],
    "n_jobs": ["a", 0, 1.5],
    "dask": [3],
    "random_state": ["x", -1, 1.5, 2**40],
    "progress": [3, "x"],
    "rehash": ["x"],
    "recheck": ["x", -1],
    "part": [3, "x", "3/2"],
    "nothing": [1],
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for value in range(12):
        put(tmp_path / "photos" / "ab"[value % 2] / f"{value}.png", value)
    rows = "".join(f"{'ab'[value % 2]}/{value}.png,{'xy'[value % 2]},{value}\n" for value in range(12))
    (tmp_path / "t.csv").write_text(f"id,k,g\n{rows}")

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("an image went through the network")

    module = importlib.import_module("pipeline.extraction.api")
    monkeypatch.setattr(module, "complete_cache", work)
    monkeypatch.setattr(module, "complete_parts", work)
    return tmp_path / "photos"


def refuses(function: Callable[..., Any], *args: Any, **options: Any) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        function(*args, **options)
    assert caught.value.message and caught.value.next_step
    assert caught.value.next_step != caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "function", [pl.extract, pl.evaluate, pl.fit, pl.study], ids=lambda function: function.__name__
)
def test_every_wrong_argument_is_refused_before_an_image_is_read(function: Callable[..., Any], photos: Path) -> None:
    names = set(inspect.signature(function).parameters)
    if function is pl.fit:
        names |= set(inspect.signature(pl.evaluate).parameters)
    unchecked = {"weights", "keep_photos", "options"}
    assert names - unchecked <= WRONG.keys()
    usual = {} if function is pl.extract else {"labels": "t.csv", "column": "k"}
    for name in [name for name in WRONG if name in names | {"nothing"}]:
        # Where there is no table, its options have nothing to be compared with.
        if function is pl.extract and name == "id_column":
            continue
        for value in WRONG[name]:
            options = {key: other for key, other in usual.items() if key != name}
            refuses(function, **{"data": "photos", **options, name: value})


@pytest.mark.parametrize(
    ("function", "given", "wrong"),
    [
        (pl.Model.open, {}, {"path": [5, None, "missing"]}),
        (pl.Run.open, {}, {"folder": [5, None, "missing"]}),
        (pl.Study.open, {}, {"folder": [5, None, "missing"]}),
        (pl.ModelScore.open, {}, {"folder": [5, None, "missing"]}),
        (pl.FeatureCache.open, {}, {"path": [5, None, "missing"]}),
        (pl.Backbone.open, {}, {"spec": [5, None, "nothing"], "random_state": ["x", -1]}),
        (
            pl.ImageSource.open,
            {"data": "photos"},
            {"data": WRONG["data"], "root": [3], "share": [3, "x"], "known": [3]},
        ),
        (open_run, {}, {"folder": [5, None, "missing"]}),
        (pl.write_report, {}, {"run": [5, None, "missing"]}),
        (pl.write_report, {"run": "missing"}, {"out": [5], "progress": [5]}),
        (pl.log_report, {"report": 5, "uri": "x"}, {"report": [5, None]}),
        (pl.save_backbone, {"network": 5, "path": "x.onnx", "resize": 8, "crop": 8}, {"network": [5], "mean": [5]}),
        (serve, {"model": "missing"}, {"model": [5, None, "missing"], "port": ["x", -1, 10**6], "host": [3]}),
        (serve, {"model": "missing"}, {"token_file": [3], "limits": [3], "ready": [3], "n_jobs": ["x"]}),
        (pl.ConfusionDisplay.from_run, {"run": 5}, {"run": [5, "x"]}),
        (pl.EmbeddingMapDisplay.from_cache, {"cache": 5}, {"cache": [5, "x"], "most": ["x"]}),
        (pl.DepthDisplay.from_study, {"study": 5}, {"study": [5]}),
    ],
)
def test_other_public_functions_refuse_wrong_arguments(
    function: Callable[..., Any], given: dict[str, Any], wrong: dict[str, list[Any]], photos: Path
) -> None:
    for name, values in wrong.items():
        for value in values:
            refuses(function, **{**given, name: value})


@pytest.mark.parametrize(
    ("method", "given", "wrong"),
    [
        ("predict", {"data": "photos"}, {"top": ["x", 0, 1.5], "neighbours": ["x", -1], "cache": [5], "nothing": [1]}),
        ("predict", {"data": "photos"}, {"id_column": [3], "root": [3], "n_jobs": ["x"], "device": [3], "dask": [3]}),
        ("score", {"data": "photos"}, {"labels": [5], "column": [5], "groups": [4], "out": [3], "random_state": [-1]}),
        ("export", {"out": "x.onnx"}, {"out": [5], "format": [5], "progress": [3]}),
        ("save", {"path": "x"}, {"path": [5], "weights": ["x"]}),
    ],
)
def test_methods_of_a_model_refuse_wrong_arguments(
    method: str, given: dict[str, Any], wrong: dict[str, list[Any]], photos: Path
) -> None:
    model = object.__new__(pl.Model)  # what is refused is refused before it looks at itself
    for name, values in wrong.items():
        for value in values:
            refuses(getattr(model, method), **{**given, name: value})


def test_an_embedder_refuses_wrong_parameters_when_it_is_used(photos: Path) -> None:
    for name in ("backbone", "layer", "cache", "precision", "store", "decode", "batch_size", "device", "n_jobs"):
        for value in WRONG[name]:
            embedder = pl.ImageEmbedder(**{name: value})
            refuses(embedder.fit, ["photos/a/0.png"])
            refuses(embedder.transform, ["photos/a/0.png"])


def test_the_message_names_argument_expectation_and_value() -> None:
    assert str(refuses(pl.evaluate, "x", cv="five")).splitlines() == [
        "cv: expected a whole number, got 'five' (str)",
        "try: leave out cv, or pass a value such as cv=5",
    ]
    assert refuses(pl.evaluate, "x", column=3).message == "column: expected text or a list of text, got 3 (int)"
    assert refuses(pl.extract, "x", n_jobs="a").message == "n_jobs: expected a whole number or None, got 'a' (str)"
    assert refuses(pl.extract, "x", cache=None).message == "cache: expected text or a path, got None"
    unknown = refuses(pl.extract, "x", batchsize=3)
    assert unknown.message.endswith("got an unexpected keyword argument 'batchsize'")
    assert unknown.next_step == "did you mean batch_size?"
    assert "missing a required argument: 'data'" in refuses(pl.extract).message
    assert refuses(pl.extract, "x", random_state=-1).message == (
        "random_state: expected a number from 0 to 4,294,967,295, got -1 (int)"
    )


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (int, [1, np.int64(1)], [True, 1.0, "1", None]),
        (float, [1, 1.5, np.float32(1)], [True, "1", 1j]),
        (bool, [True, np.bool_(False)], [0, "x"]),
        (str | Path, ["x", Path("x")], [5, b"x"]),
        (Sequence[str], [("a",), ["a"], np.array(["a"]), {"a"}, iter(["a"])], ["a", b"a", {"a": 1}, [1], 3]),
        (Mapping[str, Any] | None, [{}, None], [[], "x"]),
        (Callable[[str], None], [print], [3]),
    ],
)
def test_values_are_compared_with_annotations(annotation: Any, right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not fits(value, annotation)] == []
    assert [value for value in wrong if fits(value, annotation)] == []
    assert describe(annotation)


def test_defaults_are_filled_in() -> None:
    assert bind_arguments(pl.extract, "x", store="fp16").arguments["precision"] == "fp32"

"""`ImageEmbedder` is a scikit-learn transformer, and the network sees each image once whatever the folds."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import fake_backbone
import numpy as np
import pytest
from fake_backbone import features_of
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import pipeline
import pipeline.extraction.embedder as embedder_room
import pipeline.extraction.encoder as network_room
from pipeline.cache import FeatureCache
from pipeline.errors import BackboneError, PipelineError, SourceError
from pipeline.extraction import extract
from pipeline.extraction.embedder import ImageEmbedder

COUNT = 30


@pytest.fixture
def network(monkeypatch) -> fake_backbone.Planted:
    found = fake_backbone.Planted()
    monkeypatch.setattr(network_room, "open_runtime", found)
    return found


@pytest.fixture
def paths(tmp_path) -> list[str]:
    return [str(fake_backbone.put(tmp_path / "photos" / f"{number:05d}.png", number)) for number in range(COUNT)]


@pytest.fixture
def embedder(tmp_path) -> ImageEmbedder:
    return ImageEmbedder(fake_backbone.backbone(), cache=tmp_path / "caches")


def files(embedder: ImageEmbedder) -> list[Path]:
    return sorted(Path(embedder.cache).glob("*.h5"))


def labels(count: int = COUNT) -> np.ndarray:
    return np.arange(count) % 2


def test_every_row_has_its_own_image_in_any_order_and_as_often_as_it_comes(embedder, paths, network):
    order = np.random.default_rng(0).integers(0, COUNT, 100)
    found = embedder.transform([paths[number] for number in order])
    assert found.dtype == np.float32
    assert np.array_equal(found, features_of(order, "penultimate"))
    assert sorted(network.seen) == sorted(set(order.tolist()))


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda paths: [Path(path) for path in paths]])
def test_paths_come_as_any_sequence(embedder, paths, network, kind):
    assert np.array_equal(embedder.fit_transform(kind(paths[3:6])), features_of([3, 4, 5], "penultimate"))


def test_cross_validation_runs_the_network_once_an_image(embedder, paths, network):
    model = make_pipeline(embedder, GaussianNB())
    cross_validate(model, paths, labels(), cv=5, error_score="raise")
    assert sorted(network.seen) == list(range(COUNT))
    network.forget()
    cross_validate(model, paths, labels(), cv=3, return_train_score=True, error_score="raise")
    assert network.seen == []


def test_a_copy_under_another_name_and_an_extracted_folder_are_known(embedder, paths, network, tmp_path):
    extract(tmp_path / "photos", backbone=fake_backbone.backbone(), cache=embedder.cache)
    network.forget()
    copy = fake_backbone.put(tmp_path / "elsewhere" / "copy.png", 7)
    assert np.array_equal(embedder.transform([str(copy), paths[2]]), features_of([7, 2], "penultimate"))
    assert network.seen == []


def test_a_file_edited_in_place_is_another_image(embedder, paths, network):
    embedder.transform(paths)
    before = Path(paths[4]).stat()
    fake_backbone.put(Path(paths[4]), 4000)
    os.utime(paths[4], ns=(before.st_atime_ns, before.st_mtime_ns))
    network.forget()
    assert np.array_equal(embedder.transform(paths[3:5]), features_of([3, 4000], "penultimate"))
    assert network.seen == [4000]


def test_growing_leaves_few_files_and_copies_no_row_often(embedder, paths, network, monkeypatch):
    written = []
    write = pipeline.cache.CacheWriter.write
    monkeypatch.setattr(
        pipeline.cache.CacheWriter,
        "write",
        lambda self, rows, **what: (written.extend(rows), write(self, rows, **what)),
    )
    for path in paths:
        embedder.transform([path])
    assert sorted(network.seen) == list(range(COUNT))
    assert len(files(embedder)) <= np.log2(COUNT) + 1
    assert len(written) <= COUNT * (np.log2(COUNT) + 1)
    held = [FeatureCache.open(path) for path in files(embedder)]
    assert sum(len(cache.rows) for cache in held) == COUNT
    network.forget()
    assert np.array_equal(embedder.transform(paths), features_of(range(COUNT), "penultimate"))
    assert network.seen == []
    assert not list(Path(embedder.cache).glob("embedder-????????????.h5.lock"))


def test_what_a_killed_run_stored_is_not_run_again(embedder, paths, network, monkeypatch):
    calls = []
    real = fake_backbone.PlantedRuntime.__call__

    def dies(self: fake_backbone.PlantedRuntime, pixels: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(self, pixels)

    one = clone(embedder).set_params(n_jobs=1, batch_size=4)
    monkeypatch.setattr(fake_backbone.PlantedRuntime, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        one.transform(paths)
    monkeypatch.setattr(fake_backbone.PlantedRuntime, "__call__", real)
    stored = sum(len(FeatureCache.open(path).rows) for path in files(one))
    assert stored > 0
    network.forget()
    assert np.array_equal(one.transform(paths), features_of(range(COUNT), "penultimate"))
    assert len(network.seen) == COUNT - stored
    assert len(files(one)) == 1


def test_a_damaged_row_is_made_anew(embedder, paths, network):
    embedder.transform(paths)
    (file,) = files(embedder)
    cache = FeatureCache.open(file)
    field = cache.header.fields["features/penultimate"]
    with file.open("r+b") as raw:
        raw.seek(field.offset + 5 * field.row_bytes)
        raw.write(b"\xff")
    network.forget()
    assert np.array_equal(embedder.transform(paths), features_of(range(COUNT), "penultimate"))
    assert len(network.seen) == 1


@pytest.mark.parametrize(("content", "why"), [(b"no image", "not an image"), (b"", "empty file"), (None, "missing")])
def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_kept(embedder, paths, network, content, why):
    if content is None:
        Path(paths[3]).unlink()
    else:
        fake_backbone.put(Path(paths[3]), content)
    for _ in range(2):
        with pytest.raises(SourceError) as caught:
            embedder.transform(paths)
        assert caught.value.message.startswith(f"{paths[3]}: ") and why in caught.value.message
        assert "leave it out of X and y" in caught.value.next_step
    fake_backbone.put(Path(paths[3]), 3)
    assert np.array_equal(embedder.transform(paths), features_of(range(COUNT), "penultimate"))
    assert sorted(network.seen) == list(range(COUNT))


def test_images_come_as_an_array_too(embedder, network):
    numbers = [5, 900, 5, 31]
    images = np.stack([np.asarray(fake_backbone.photo(number)) for number in numbers])
    assert np.array_equal(embedder.fit_transform(images), features_of(numbers, "penultimate"))
    assert sorted(network.seen) == [5, 31, 900]
    assert embedder.transform(images[..., 0]).shape == (4, 1280)
    cross_validate(make_pipeline(embedder, GaussianNB()), images.repeat(3, axis=0), labels(12), error_score="raise")
    assert sorted(set(network.seen[:3])) == [5, 31, 900]


@pytest.mark.parametrize(
    ("X", "found"),
    [
        (np.zeros((3, 2)), "got float64 (3, 2)"),
        (np.zeros((3, 4, 4), np.float32), "got float32 (3, 4, 4)"),
        ("photos", "got str"),
        (np.array([["a.jpg"], ["b.jpg"]]), "got ndarray (2, 1)"),
        ([], "got none"),
        (["a.jpg", 3], "got 3 among them"),
        (["a.jpg", ""], "got '' among them"),
    ],
)
def test_what_is_no_image_is_refused(embedder, X, found):
    for method in (embedder.fit, embedder.transform):
        with pytest.raises(SourceError) as caught:
            method(X)
        assert "expected a list or 1-D array of paths, or a uint8 array" in caught.value.message
        assert found in caught.value.message


def test_an_image_that_fails_in_an_array_is_named_by_its_row(embedder, network):
    network.spoilt = [9]
    images = np.stack([np.asarray(fake_backbone.photo(number)) for number in (5, 9)])
    with pytest.raises(SourceError) as caught:
        embedder.transform(images)
    assert caught.value.message == "X[1]: the network returned a value that is not finite"


def test_a_file_that_changes_while_it_is_read_is_named(embedder, paths, network, monkeypatch):
    growth = embedder_room._EmbedderCaches.merged_source

    def meanwhile(*asked: object) -> object:
        fake_backbone.put(Path(paths[2]), 2000)
        return growth(*asked)

    monkeypatch.setattr(embedder_room._EmbedderCaches, "merged_source", meanwhile)
    with pytest.raises(SourceError) as caught:
        embedder.transform(paths)
    assert caught.value.message == f"{paths[2]}: changed while it was read"
    assert np.array_equal(embedder.transform(paths[2:4]), features_of([2000, 3], "penultimate"))


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("precision", "fp8", "precision: expected fp32"),
        ("store", "fp8", "store: expected fp32 or fp16, got 'fp8'"),
        ("decode", "quick", "decode: expected exact or fast, got 'quick'"),
        ("n_jobs", 0, "n_jobs: expected a number of workers, got 0"),
        ("batch_size", 0, "batch_size: expected 1 or more, got 0"),
        ("backbone", "resnet0", "resnet0"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(embedder, paths, network, option, value, text):
    with pytest.raises(PipelineError, match=text):
        embedder.set_params(**{option: value}).transform(paths)


def test_one_layer_is_wanted(embedder, paths):
    with pytest.raises(BackboneError, match="layer: expected one layer, got 'all', which is 4"):
        embedder.set_params(layer="all").fit(paths)


def test_clone_parameters_and_pickle(embedder, paths, network):
    changed = clone(embedder).set_params(layer="late", store="fp16")
    assert changed.get_params()["layer"] == "late" and embedder.layer == "penultimate"
    assert list(changed.get_params()) == sorted(ImageEmbedder().get_params())
    there = pickle.loads(pickle.dumps(changed.fit(paths)))
    assert there.n_features_out_ == 192
    assert np.array_equal(there.transform(paths), features_of(range(COUNT), "late").astype(np.float16))


def test_output_as_a_table(embedder, paths, network):
    table = embedder.set_params(layer="early").set_output(transform="pandas").fit_transform(paths[:3])
    assert table.columns.tolist() == [f"early{number}" for number in range(40)]
    assert np.array_equal(table.to_numpy(), features_of([0, 1, 2], "early"))


def test_layers_are_searched_and_each_runs_an_image_once(embedder, paths, network):
    search = GridSearchCV(
        make_pipeline(embedder, GaussianNB()), {"imageembedder__layer": ["early", "late"]}, cv=3, error_score="raise"
    ).fit(paths, labels())
    assert search.best_params_["imageembedder__layer"] in ("early", "late")
    assert sorted(network.seen) == sorted([*range(COUNT), *range(COUNT)])


class InWorkers(ImageEmbedder):
    """Puts a planted network, which leaves a note of every image, into whatever process it works in."""

    def transform(self, X: list[str]) -> np.ndarray:
        notes = Path(self.cache).parent / "notes"

        class Noting(fake_backbone.PlantedRuntime):
            def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
                for number in fake_backbone.numbers_in(pixels).tolist():
                    with (notes / str(number)).open("a") as note:
                        note.write(f"{os.getpid()}\n")
                return super().__call__(pixels)

        def open_runtime(_: object, layers: list[str], **__: object) -> fake_backbone.PlantedRuntime:
            return Noting({layer: fake_backbone.WIDTHS[layer] for layer in layers}, slowness=0.005)

        network_room.open_runtime = open_runtime  # type: ignore[assignment]
        return super().transform(X)


def test_processes_side_by_side_run_each_image_once_between_them(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(network_room, "open_runtime", None)  # so that what is put there is taken back
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)]))
    (tmp_path / "notes").mkdir()
    embedder = InWorkers(fake_backbone.backbone(), cache=tmp_path / "caches")
    model = make_pipeline(embedder, LogisticRegression())
    answer = cross_validate(model, paths, labels(), cv=5, n_jobs=2, error_score="raise")
    assert len(answer["test_score"]) == 5
    notes = {int(path.name): path.read_text().split() for path in (tmp_path / "notes").iterdir()}
    assert sorted(notes) == list(range(COUNT))
    assert all(len(who) == 1 for who in notes.values())
    assert str(os.getpid()) not in {who[0] for who in notes.values()}


class OfNumbers(ImageEmbedder):
    """Makes an image of each row of numbers, because numbers are all that scikit-learn's checks have to give.

    For input that is no table they leave out all but two checks; the tags of the rest are those of ImageEmbedder.
    """

    folder = ""

    def fit(self, X: np.ndarray, y: object = None) -> OfNumbers:
        validate_data(self, X)
        return super().fit(self._images(X))

    def transform(self, X: np.ndarray) -> np.ndarray:
        self.cache, given = self.folder, self.cache
        try:
            return super().transform(self._images(validate_data(self, X, reset=False)))
        finally:
            self.cache = given

    def _images(self, X: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(X, np.float64)
        return np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1, 8)

    def __sklearn_tags__(self) -> object:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags


# Without tables as input, scikit-learn says that it leaves the rest out.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", SkipTestWarning)
    as_it_is = parametrize_with_checks([ImageEmbedder()])


@as_it_is
def test_the_estimator_checks_for_any_input_pass(estimator, check):
    check(estimator)


@parametrize_with_checks([OfNumbers(fake_backbone.backbone(), layer="early")])
def test_the_estimator_checks_for_tables_pass_where_rows_are_made_images(
    estimator, check, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(OfNumbers, "folder", str(tmp_path / "caches"))
    check(estimator)


def test_the_package_hands_it_on():
    assert pipeline.ImageEmbedder is ImageEmbedder

"""Files from strangers: refused before anything in them is believed, and nobody else's file touched."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hostile_caches
import numpy as np
import pytest
import skops.io
import torch
from cachefiles import filled
from made_caches import blobs, names
from sandbox_probe import Canary
from tars import write_parquet
from test_model_folder import Touch, default_cache, put_head, rewrite

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.errors import BackboneError, CacheError, ModelError, PipelineError, SourceError
from pipeline.images import ImageSource
from pipeline.model import Model, fit


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    found = Canary(tmp_path / "aviary")
    yield found
    found.close()


@pytest.fixture(scope="module")
def bees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, to be copied and tampered with."""
    folder = tmp_path_factory.mktemp("bees")
    X, y = blobs(30, d=8, apart=3.0)
    cache = default_cache(folder / "made.h5", X, {"kind": names(y)})
    return fit(cache, grid={"logistic.C": 1.0}, cv=2, n_jobs=1).save(folder / "bees.model")


class Singing:
    """What sings when it is unpickled."""

    def __init__(self, song: Path) -> None:
        self.song = song

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.song),)


# --- caches


def test_hostile_caches_are_refused(promise, canary, tmp_path):
    with promise("a hostile cache is refused with the reason, and no other file is opened for it") as on_trial:
        for number, name in enumerate(hostile_caches.CACHES):
            with on_trial.trial(name):
                path = tmp_path / f"{number}.h5"
                said = hostile_caches.make(name, path, canary.path)
                assert canary.touched in (True, False)  # whatever it took to make it
                with pytest.raises(CacheError) as caught:
                    FeatureCache.open(path)
                assert said in caught.value.message and str(path) in caught.value.message
                assert not canary.touched


@pytest.mark.parametrize("name", ["an external link", "external storage", "a virtual dataset"])
def test_plain_h5py_would_have_woken_the_canary(name, canary, tmp_path):
    hostile_caches.make(name, tmp_path / "x.h5", canary.path)
    assert canary.touched in (True, False)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file[hostile_caches.FEATURES][:].size
    assert canary.touched


def test_no_plugin_is_loaded_for_a_file(canary, tmp_path):
    """A library that sings when it is loaded lies where HDF5 looks for filters."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here to make a plugin with")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    source = tmp_path / "plugin.c"
    source.write_text(
        "#include <sys/stat.h>\n__attribute__((constructor)) static void sing(void) "
        f"{{ mkdir({json.dumps(str(canary.song))}, 0700); }}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", plugins / "libsinging.so", source], check=True)
    path = tmp_path / "x.h5"
    hostile_caches.make("a filter that nobody knows", path, canary.path)
    program = (
        "import sys, h5py\nfrom pathlib import Path\nfrom pipeline.cache.format import disable_plugins\n"
        "from pipeline.cache import FeatureCache\nfrom pipeline.errors import CacheError\n"
        "try: FeatureCache.open(sys.argv[1])\nexcept CacheError: pass\n"
        "def filters(): return h5py.h5z.filter_avail(32_123)\n"
        "with disable_plugins(): assert not filters()\n"
        "if sys.argv[2] == 'plain': filters()\n"
    )
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins), "PYTHONPATH": str(Path(__file__).parents[2])}
    for how, sung in (("ours", False), ("plain", True)):
        subprocess.run([sys.executable, "-c", program, path, how], check=True, env=environment)
        assert canary.song.exists() == sung, how
    canary.song.rmdir()


def test_plugins_are_back_where_they_were(tmp_path):
    def places() -> list[bytes]:
        return [h5py.h5pl.get(number) for number in range(h5py.h5pl.size())]

    before = places()
    FeatureCache.open(filled(tmp_path / "x.h5"))
    with pytest.raises(CacheError):
        FeatureCache.open(tmp_path / "none.h5")
    assert places() == before != []


# --- models


def _archive(name: str, content: bytes, how: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _head(content: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    return lambda path, song: put_head(path, content(song))


def _record(**changes: Any) -> Callable[[Path, Path], None]:
    return lambda path, song: rewrite(path, **changes)


def _written(path: Path, text: str) -> None:
    (path / "model.json").write_text(text)


MODELS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a pickle for a head": (_head(lambda song: pickle.dumps(Singing(song))), "expected a stored head, got"),
    "a type of its own": (_head(lambda song: skops.io.dumps(Touch(str(song)))), "expected only types that a model"),
    "a bomb for a head": (
        _head(lambda song: _archive("schema.json", bytes(200_000_000), zipfile.ZIP_DEFLATED)),
        "unpacks to more than its own size",
    ),
    "a schema without end": (
        _head(lambda song: _archive("schema.json", b"[" * 200_000, zipfile.ZIP_STORED)),
        "expected a stored head, got",
    ),
    "a head that is a dict": (_head(lambda song: skops.io.dumps({"a": 1})), "got a dict, which predicts nothing"),
    "a record without end": (lambda path, song: _written(path, "[" * 200_000), "got RecursionError"),
    "classes that are none": (_record(classes={"a": 1}), "expected a valid 'classes'"),
    "a recipe that is none": (_record(recipe={"store": "fp8"}), "expected a valid 'recipe'"),
    "a task that is none": (_record(task=["class"]), "expected a valid 'task'"),
    "another scikit-learn": (_record(versions={"scikit-learn": "0.1.2"}), "expected scikit-learn 0.1"),
}  # fmt: skip


def test_hostile_models_are_refused(promise, canary, bees, tmp_path):
    with promise("a hostile model is refused, and nothing in it comes to life") as on_trial:
        for number, (name, (make, said)) in enumerate(MODELS.items()):
            with on_trial.trial(name):
                path = Path(shutil.copytree(bees, tmp_path / f"{number}.model"))
                make(path, canary.song)
                with pytest.raises(ModelError) as caught:
                    Model.open(path)
                assert said in caught.value.message and str(path) in caught.value.message
                assert not canary.touched


def test_files_of_a_model_that_are_swapped_after_the_check_are_not_parsed(promise, bees, tmp_path, monkeypatch):
    """Whoever can write the folder could put another file there between the hash and the reading."""
    read = Path.read_bytes
    parsed: list[str] = []

    def swapping(self: Path) -> bytes:
        content = read(self)
        if self.parent == tmp_path / "bees.model":
            parsed.append(self.name)
            self.write_bytes(b"another file")
        return content

    with promise("what is parsed of a model are the very bytes that were hashed") as on_trial:
        for name in ("head.skops", "training.digests"):
            with on_trial.trial(name):
                path = Path(shutil.copytree(bees, tmp_path / "bees.model", dirs_exist_ok=True))
                with monkeypatch.context() as patch:
                    patch.setattr(Path, "read_bytes", swapping)
                    model = Model.open(path)
                assert parsed.count(name) == 1, "read once, and never again"
                assert model.training_digests.shape == (30, 16)
                parsed.clear()
        with on_trial.trial("backbone.safetensors"):
            path = Path(shutil.copytree(bees, tmp_path / "bees.model", dirs_exist_ok=True))
            model = Model.open(path)
            weights = path / "backbone.safetensors"
            before = weights.stat()
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1  # of a tensor: it parses
            weights.write_bytes(content)
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
            with pytest.raises(BackboneError, match="changed since the backbone was opened"):
                model.backbone.load_network()


# --- weights, tables, arrays, archives


def _pickled_weights(folder: Path, canary: Canary) -> None:
    torch.save({"features.weight": Singing(canary.song)}, folder / "w.pth")
    Backbone.open(f"resnet18:{folder / 'w.pth'}@IMAGENET1K_V1")


def _pickled_array(folder: Path, canary: Canary) -> None:
    np.savez(folder / "x.npz", images=np.array([Singing(canary.song)] * 2, dtype=object))
    ImageSource.open(folder / "x.npz")


def _pickled_ids(folder: Path, canary: Canary) -> None:
    ids = np.array([Singing(canary.song)] * 2, dtype=object)
    np.savez(folder / "x.npz", images=np.zeros((2, 8, 8, 3), np.uint8), ids=ids)
    ImageSource.open(folder / "x.npz")


def _table(cell: str) -> Callable[[Path, Canary], None]:
    def opens(folder: Path, canary: Canary) -> None:
        (folder / "t.csv").write_text(f"id,label\na.png,x\n{cell.format(canary.path)},y\n")
        ImageSource.open(folder / "t.csv")

    return opens


def _parquet(column: str, cell: str) -> Callable[[Path, Canary], None]:
    def opens(folder: Path, canary: Canary) -> None:
        write_parquet(folder / "t.parquet", [1, 2], **{column: ["a.png", cell.format(canary.path)]})
        ImageSource.open(folder / "t.parquet")

    return opens


def _named_array(name: str) -> Callable[[Path, Canary], None]:
    def opens(folder: Path, canary: Canary) -> None:
        np.savez(folder / "x.npz", images=np.zeros((2, 8, 8, 3), np.uint8), ids=np.array(["a", name]))
        ImageSource.open(folder / "x.npz")

    return opens


def _tar(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Path, Canary], None]:
    def opens(folder: Path, canary: Canary) -> None:
        with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo(name.format(canary.path))
            info.type, info.linkname = kind, str(canary.path)
            info.size = 100 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(bytes(100)))
        ImageSource.open(folder / "x.tar")

    return opens


OTHERS: dict[str, tuple[Callable[[Path, Canary], None], type[PipelineError], str]] = {
    "weights that are a pickle": (_pickled_weights, BackboneError, "other Python objects"),
    "images that are a pickle": (_pickled_array, SourceError, ""),
    "ids that are a pickle": (_pickled_ids, SourceError, ""),
    "a table that climbs out": (_table("x/../../aviary/canary.h5"), SourceError, "which leaves it"),
    "a table that climbs backwards": (_table("..\\aviary\\canary.h5"), SourceError, "which leaves it"),
    "a table with an absolute path": (_table("{}"), SourceError, "got the absolute path"),
    "a table with a drive": (_table("C:\\x.png"), SourceError, "got the absolute path"),
    "a table with a NUL": (_table("a\0b.png"), SourceError, "control character"),
    "ids of Parquet that climb out": (_parquet("id", "../aviary/canary.h5"), SourceError, "leads out of the table"),
    "ids of Parquet that are absolute": (_parquet("id", "{}"), SourceError, "an absolute path"),
    "ids of an array that climb out": (_named_array("../canary"), SourceError, "leads out of the file"),
    "ids of an array that are absolute": (_named_array("/etc/passwd"), SourceError, "an absolute path"),
    "a tar that climbs out": (_tar("../aviary/canary.png"), SourceError, "its name leads out of the tar"),
    "a tar with an absolute path": (_tar("{}.png"), SourceError, "its name is an absolute path"),
    "a tar with a link": (_tar("a.png", tarfile.SYMTYPE), SourceError, "a link to another member"),
    "a tar with a hard link": (_tar("a.png", tarfile.LNKTYPE), SourceError, "a link to another member"),
}  # fmt: skip


def test_hostile_tables_arrays_weights_and_archives_are_refused(promise, canary, tmp_path):
    with promise("no table, array, archive or weights file reaches out of its folder or comes to life") as on_trial:
        for number, (name, (opens, kind, said)) in enumerate(OTHERS.items()):
            with on_trial.trial(name):
                folder = tmp_path / f"other{number}"
                folder.mkdir()
                with pytest.raises(kind) as caught:
                    opens(folder, canary)
                assert said in caught.value.message
                assert not canary.touched


def test_the_canary_would_have_sung(canary):
    pickle.loads(pickle.dumps(Singing(canary.song)))
    assert canary.touched
    canary.song.rmdir()
    assert not canary.touched
    canary.path.read_bytes()
    assert canary.touched

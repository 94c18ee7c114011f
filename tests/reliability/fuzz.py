"""The openers of files, fuzzed: ``fuzz.py TARGET --runs N``, or ``--seconds N`` with atheris, which follows the code.

Ends with the line ``Done N runs`` and exit code 0, or dies of what it found. What an opener may do with any bytes is to
open them, or to raise a `PipelineError`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

try:
    import atheris
except ImportError:  # no wheel for this system
    atheris = None

with atheris.instrument_imports(include=["pipeline"]) if atheris else contextlib.nullcontext():
    import pipeline.cache.reader
    import pipeline.images.parquet  # noqa: F401
    from pipeline.cache import FeatureCache
    from pipeline.errors import PipelineError, UnreadableImage
    from pipeline.images import ImageSource, read_text_table
    from pipeline.labels import read_label_table
    from pipeline.model import Model
    from pipeline.provenance import sha256_json


class CacheTarget:
    """Any bytes are changes of a small cache: where, and to what; then its checksums are made right again."""

    def __init__(self, folder: Path) -> None:
        from cachefiles import filled, outside_datasets
        from hdf5_checksums import forged

        self.path = filled(folder / "x.h5")
        self.whole, self._forged = self.path.read_bytes(), forged
        # Where HDF5's metadata is: most of the file is rows and the space between them.
        self.places = [place for place, byte in enumerate(outside_datasets(self.path)) if byte]
        self.seeds = [b"", bytes(range(40)), b"\x05" * 9]

    def __call__(self, data: bytes) -> None:
        changed = bytearray(self.whole)
        for at in range(0, len(data) - 3, 4):
            place = self.places[int.from_bytes(data[at : at + 2], "little") % len(self.places)] + data[at + 2] % 8
            changed[place : place + 1] = data[at + 3 : at + 4]
        self.path.write_bytes(self._forged(bytes(changed)) if len(data) % 2 else bytes(changed))
        cache = FeatureCache.open(self.path)
        cache.describe(), cache.ids, cache.columns, cache.skipped, cache.damaged()
        with contextlib.suppress(PipelineError):
            cache.features()


class ModelTarget:
    """Any bytes change the record, or the schema of the stored head, as text; then the hashes are made right again."""

    def __init__(self, folder: Path) -> None:
        from made_caches import blobs, names
        from test_model_folder import default_cache

        from pipeline.model import fit

        X, y = blobs(24, d=4, apart=3.0)
        cache = default_cache(folder / "made.h5", X, {"kind": names(y)})
        self.path = fit(cache, grid={"logistic.C": 1.0}, cv=2, n_jobs=1).save(folder / "x.model", weights=False)
        self.record = (self.path / "model.json").read_text()
        with zipfile.ZipFile(self.path / "head.skops") as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.seeds = [b"r" + bytes(12), b"s" + bytes(12), b"n" + bytes(12)]

    def __call__(self, data: bytes) -> None:
        which, edits = data[:1], data[1:]
        members, text = dict(self.members), self.record.encode()
        if which == b"r":
            text = _edited(text, edits)
        else:
            name = "schema.json" if which < b"t" else next(name for name in members if name != "schema.json")
            members[name] = _edited(members[name], edits)
        head = io.BytesIO()
        with zipfile.ZipFile(head, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        (self.path / "head.skops").write_bytes(head.getvalue())
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            record = json.loads(text)
            record.pop("sha256", None)
            record["files"]["head.skops"] = hashlib.sha256(head.getvalue()).hexdigest()
            record["sha256"] = sha256_json(record)
            text = json.dumps(record).encode()
        (self.path / "model.json").write_bytes(text)
        Model.open(self.path)


class TableTarget:
    """Any bytes are a table: the first of them says of which kind."""

    def __init__(self, folder: Path) -> None:
        from tars import write_parquet

        self.folder = folder
        parquet = write_parquet(folder / "seed.parquet", [1, 2], id=["a", "b"], label=["x", "y"]).read_bytes()
        text = 'id,label\na.png,x\n\'=b.png,"y\n,"\n'
        self.seeds = [b"c" + text.encode(), b"t" + text.replace(",", "\t").encode(), b"p" + parquet]

    def __call__(self, data: bytes) -> None:
        suffix = {b"p": "parquet", b"t": "tsv"}.get(data[:1], "csv")
        path = self.folder / f"x.{suffix}"
        path.write_bytes(data[1:])
        for read in (read_text_table, read_label_table, _first_photo):
            with contextlib.suppress(PipelineError):
                read(path)


def _first_photo(path: Path) -> None:
    with contextlib.suppress(UnreadableImage):
        ImageSource.open(path).read(0)


TARGETS: dict[str, Callable[[Path], Any]] = {"cache": CacheTarget, "model": ModelTarget, "table": TableTarget}


FINDS = Path(__file__).with_name("finds")  # inputs that ended a process once; each is tried in every run


def _edited(content: bytes, edits: bytes) -> bytes:
    """Return a text with changes in it: each is a place, how many bytes go, and what comes instead."""
    changed = bytearray(content)
    for at in range(0, len(edits) - 7, 8):
        if changed and any(edits[at : at + 8]):
            place = int.from_bytes(edits[at : at + 3], "little") % len(changed)
            changed[place : place + edits[at + 3] % 16] = edits[at + 4 : at + 8].strip(b"\0")
    return bytes(changed)


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """Return the input of this number: a seed with bytes changed, cut away and added."""
    rng = np.random.default_rng([5, number])
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(data) + 1))
        data[at : at + int(rng.integers(0, 5))] = rng.bytes(int(rng.integers(0, 9)))
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=int)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        target = TARGETS[asked.target](folder)

        def one(data: bytes) -> None:
            with contextlib.suppress(PipelineError):
                target(data)

        for find in sorted(FINDS.glob(f"{asked.target}-*")):
            target.seeds.append(find.read_bytes())
            one(target.seeds[-1])
        if asked.seconds is None:
            for number in range(asked.runs):
                one(mutated(target.seeds, number))
            print(f"Done {asked.runs} runs", file=sys.stderr)
            return
        if atheris is None:
            raise SystemExit("atheris is not installed: pip install 'transfer-pipeline[fuzz]'")
        corpus = folder / "corpus"
        corpus.mkdir()
        for number in range(64):
            (corpus / str(number)).write_bytes(
                target.seeds[number] if number < len(target.seeds) else mutated(target.seeds, number)
            )
        limits = ["-timeout=120", "-rss_limit_mb=4096", "-max_len=4096", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={asked.seconds}", *limits], one)
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""Write files of every kind that this package keeps, to be opened by later versions.

Call it as `python tests/pinned/make.py FOLDER`.

`tests/pinned/v1/` was written by this script with the version of the commit named in `v1/WRITTEN_BY.txt`. It is never
written again: a later format gets a folder of its own beside it. The photos are small and made from a seed, so that
features and predictions of the pinned files can be computed again and compared.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")
PER_CLASS = 12
TABLE = "id,species,width_mm,tags,site\n"


def draw(kind: str, number: int) -> Image.Image:
    """Return a noisy 40 x 32 image with a bar in the color of its class."""
    noise = np.random.default_rng([CLASSES.index(kind), number]).integers(0, 200, (32, 40, 3), np.uint8)
    noise[6:26, 4 : 16 + number] = [230 * (kind == color) for color in ("red", "green", "blue")]
    return Image.fromarray(noise)


def make_photos(folder: Path) -> None:
    """Write class folders, a table of four label columns, and two tar shards of the same images."""
    shards = [tarfile.open(folder / f"shard-{number}.tar", "w", format=tarfile.PAX_FORMAT) for number in (0, 1)]  # noqa: SIM115
    rows = []
    for kind in CLASSES:
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(PER_CLASS):
            name = f"{kind}/{number:02d}.{'jpg' if number % 2 else 'png'}"
            draw(kind, number).save(folder / "photos" / name)
            data = (folder / "photos" / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shards[number % 2].addfile(member, io.BytesIO(data))
            tags = ";".join(tag for tag, there in (("even", number % 2 == 0), ("wide", number > 5)) if there) or ";"
            rows.append(f"{name},{kind},{16 + number + 0.5},{tags},site-{number % 6}\n")
    for shard in shards:
        shard.close()
    (folder / "labels.csv").write_text(TABLE + "".join(rows), encoding="utf-8")
    draw("red", 99).save(folder / "new.png")
    (folder / "photos" / "red" / "broken.jpg").write_bytes(b"<!doctype html>")


def run(folder: Path, *arguments: str, keep: str = "") -> str:
    """Run one command in `folder`; its standard output is kept under `output/KEEP`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
    )
    if keep:
        (folder / "output").mkdir(exist_ok=True)
        (folder / "output" / keep).write_bytes(done.stdout)
    return done.stdout.decode()


def make(folder: Path, run: Callable[..., object] = run) -> None:
    """Write everything below `folder`, which must not exist; `run` runs one command and keeps its output."""
    folder.mkdir(parents=True)
    make_photos(folder)
    run(folder, "extract", "photos", "--layer", "early", "--layer", "penultimate", "--json", keep="extract.json")
    run(folder, "extract", "shard-{0..1}.tar", "--cache", "parts", "--json", keep="extract_parts.json")
    table = ("--labels", "labels.csv", "--head", "centroid", "--head", "logistic")
    columns = ("--column", "species", "--column", "width_mm:number", "--column", "tags:multi", "--groups", "site")
    run(
        folder, "evaluate", "photos", "--labels", "labels.csv", *columns, "--out", "run", "--json", keep="evaluate.json"
    )
    run(folder, "fit", "photos", *table, "--column", "species", "--no-weights", "--keep-photos",
        "--out", "photos.model", "--json", keep="fit.json")  # fmt: skip
    run(folder, "fit", "photos", "--labels", "labels.csv", "--column", "width_mm:number", "--no-weights",
        "--out", "width.model", "--json")  # fmt: skip
    run(folder, "predict", "photos.model", "photos", "--neighbours", "2", keep="predict.csv")
    run(folder, "predict", "photos.model", "photos", "--json", keep="predict.json")
    run(folder, "predict", "photos.model", "photos", "--format", "jsonl", keep="predict.jsonl")
    run(folder, "score", "photos.model", "photos", "--labels", "labels.csv", "--column", "species",
        "--out", "score", "--json", keep="score.json")  # fmt: skip
    run(folder, "study", "photos", "--budget", "0.05", "--cache", "study_cache", "--out", "study", "--json",
        keep="study.json")  # fmt: skip
    name = next(path.name for path in (folder / "features_cache").glob("*.h5"))
    run(folder, "cache", "list", "--json", keep="cache_list.json")
    run(folder, "cache", "info", name, "--json", keep="cache_info.json")
    run(folder, "cache", "verify", name, "--json", keep="cache_verify.json")
    run(folder, "backbones", "--json", keep="backbones.json")
    run(folder, "heads", "--json", keep="heads.json")
    run(folder, "export", "photos.model", "--out", "photos.onnx", "--json", keep="export.json")
    run(folder, "report", "run", "--json", keep="report.json")


def keep_small(folder: Path) -> None:
    """Remove files that no later version reads: the page, the exported model, most units of the study."""
    import onnx

    model = onnx.load(folder / "photos.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    (folder / "output" / "export_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "photos.onnx").unlink()
    (folder / "run" / "photos-report.html").unlink()
    shutil.rmtree(folder / "study_cache")
    with closing(sqlite3.connect(folder / "study" / "results.sqlite")) as results:
        results.execute("DELETE FROM units WHERE key NOT IN (SELECT key FROM units ORDER BY key LIMIT 12)")
        results.commit()
        results.execute("VACUUM")
    for lock in folder.rglob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    keep_small(Path(sys.argv[1]))
    print(
        json.dumps(sorted(p.relative_to(sys.argv[1]).as_posix() for p in Path(sys.argv[1]).rglob("*") if p.is_file()))
    )

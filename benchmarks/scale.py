"""Extraction as collections grow: time an image, memory, a complete cache recognised, and the start of a small run.

    python benchmarks/scale.py                      # all of it; some minutes, some GB in the temporary folder
    python benchmarks/scale.py --only memory start

The network is a fake, so that everything else is measured: in `tests/fake_backbone.py`, its features say which image it
saw. `start` runs the real one. Every measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from turns import machine, median

HERE = Path(__file__).parent
EXTRACT = """
import json, resource, sys, time
sys.path.insert(0, {tests!r})
import fake_backbone
import pipeline.extraction.encoder as network_room
network_room.open_runtime = fake_backbone.Planted()
import pipeline as pl
started = time.perf_counter()
cache = pl.extract({data!r}, backbone=fake_backbone.backbone(), cache={caches!r}, layer={layer!r})
seconds = time.perf_counter() - started
started = time.perf_counter()
pl.FeatureCache.open(cache.path)
opened = time.perf_counter() - started
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({{"seconds": seconds, "opened": opened, "memory": memory, **cache.summary.as_dict()}}))
"""
LAYER = "early"  # 40 columns: a million rows are 160 MB


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            PARTS[name](Path(scratch), arguments.rounds)
    print(machine())


def memory(scratch: Path, _: int) -> None:
    """Print the peak memory of a run over few images and over many."""
    peaks = {}
    for count in (2_000, 50_000):
        peaks[count] = extract(photos(scratch / f"photos-{count}", count), scratch / "memory")["memory"]
    few, many = peaks.values()
    print(f"peak memory: {few:.0f} MB over 2,000 images, {many:.0f} MB over 50,000: {many - few:.0f} MB apart")


def rate(scratch: Path, rounds: int) -> None:
    """Print the time an image of runs over arrays of several lengths."""
    files = {count: array(scratch / f"rate-{count}.npy", count) for count in (1_000, 10_000, 100_000)}
    found: dict[int, list[float]] = {count: [] for count in files}
    for number in range(rounds):
        for count, file in files.items():
            said = extract(file, scratch / f"rate-{count}-{number}")
            found[count].append(said["seconds"] / count * 1e6)
    base = median(found[1_000])
    for count, values in found.items():
        print(f"{count:,} images: {median(values):.0f} microseconds an image, {median(values) / base:.2f} of 1,000's")


def million(scratch: Path, rounds: int) -> None:
    """Print how a complete cache of a million rows is recognised and opened."""
    file, caches = array(scratch / "million.npy", 1_000_000), scratch / "million"
    first = extract(file, caches)
    print(f"1,000,000 images: {first['seconds']:.0f} s to fill, {first['memory']:.0f} MB")
    again = [extract(file, caches) for _ in range(rounds)]
    assert all(one["inferred"] == 0 and one["reused"] == 1_000_000 for one in again)
    print(
        f"1,000,000 images: recognised in {median([one['seconds'] for one in again]):.1f} s, opened in "
        f"{median([one['opened'] for one in again]) * 1e3:.1f} ms, {median([one['memory'] for one in again]):.0f} MB"
    )


def start(scratch: Path, rounds: int) -> None:
    """Print the whole process of `pipeline extract` over ten new photos once the graph is stored."""
    caches = scratch / "start"
    rng = np.random.default_rng(0)
    many = scratch / "many.npy"
    np.save(many, rng.integers(0, 256, (300, 64, 64, 3), np.uint8))
    pipeline("extract", many, "--cache", caches, "--quiet")
    seconds = []
    for number in range(rounds):
        folder = scratch / f"ten-{number}"
        folder.mkdir()
        for photo in range(10):
            pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).resize((640, 480)).save(folder / f"{photo}.jpg")
        before = time.perf_counter()
        said = json.loads(pipeline("extract", folder, "--cache", caches, "--json", "--quiet"))
        seconds.append(time.perf_counter() - before)
        assert said["inferred"] == 10
    print(f"start: `pipeline extract` of 10 new photos, whole process: {median(seconds):.2f} s")


def extract(data: Path, caches: Path) -> dict[str, Any]:
    """Return what a process that extracts says of itself."""
    code = EXTRACT.format(tests=str(HERE.parent / "tests"), data=str(data), caches=str(caches), layer=LAYER)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def pipeline(*words: object) -> str:
    """Return what a command prints on stdout."""
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def photos(folder: Path, count: int) -> Path:
    """Write so many tiny photos."""
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), np.uint8)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(folder / f"{number:06d}.png")
    return folder


def array(path: Path, count: int) -> Path:
    """Write an array file of so many tiny images, no two the same."""
    images = np.zeros((count, 4, 4, 3), np.uint8)
    images.reshape(count, -1)[:, :4] = np.arange(count, dtype="<u4")[:, None].view(np.uint8)
    np.save(path, images)
    return path


PARTS: dict[str, Callable[[Path, int], None]] = {"memory": memory, "rate": rate, "million": million, "start": start}

if __name__ == "__main__":
    main()

"""Extraction against what people use, on the same photos with the same architecture: images a second, and ratios.

    python benchmarks/extraction.py PHOTOS
    python benchmarks/extraction.py PHOTOS --backbone resnet50:random
    python benchmarks/extraction.py PHOTOS --device cuda --copies 40
    python benchmarks/extraction.py PHOTOS --thingsvision PYTHON    # the interpreter of an environment that has it

PHOTOS is a folder of photos. Each contender is a process that has loaded everything and waits; they take turns, so
that a busy machine slows all of them alike, and the median of the rounds counts. Ours includes listing the folder,
digests, pixel statistics, the session's start and the synced HDF5 file; the others include the loop alone.

The bound is what no software can pass that decodes and infers every photo on these cores: `1 / (1/model + 1/decode)`,
both measured alone, on all cores, in the same run, for exact and for fast. On a GPU the two run side by side, and the
slower of them is the bound; there the naive loop has a worker a core, pinned memory and batches of 256, and as many
photos as ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from turns import Contender, machine, median, serve, take_turns

HERE = Path(__file__).parent
NAIVE = "naive loop"
OURS, FAST = "ours, exact, fp32", "ours, fast"
MODEL, DECODE, FAST_MODEL, FAST_DECODE = (
    "network alone, exact",
    "decoding alone, exact",
    "network alone, fast",
    "decoding alone, fast",
)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=8, help="of the photos, for those that are fast")
    parser.add_argument("--fast", default="--decode fast --precision bf16", help="what the fast contender adds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all of them")
    parser.add_argument("--thingsvision", metavar="PYTHON", help="interpreter of an environment that has thingsvision")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        options = {"device": arguments.device} | (
            options_of(arguments.fast) if arguments.child.startswith("fast") else {}
        )
        CHILDREN[arguments.child](Path(arguments.photos), arguments.backbone, options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        many = copies(Path(arguments.photos), Path(scratch), arguments.copies)
        few = copies(Path(arguments.photos), Path(scratch), 1) if arguments.copies > 1 else many
        contenders = start(arguments, few, many, Path(scratch))
        try:
            speeds = {name: median(values) for name, values in take_turns(contenders, arguments.rounds).items()}
        finally:
            for contender in contenders.values():
                contender.stop()
    report(arguments, speeds)


def copies(photos: Path, scratch: Path, count: int) -> Path:
    """Return a folder with each photo so many times, each a file of its own."""
    folder = scratch / f"copies-{count}"
    for number in range(count):
        (folder / str(number)).mkdir(parents=True)
        for place, path in enumerate(sorted(path for path in photos.rglob("*") if path.is_file())):
            shutil.copy(path, folder / str(number) / f"{place:05d}{path.suffix}")
    return folder


def start(arguments: argparse.Namespace, few: Path, many: Path, scratch: Path) -> dict[str, Contender]:
    """Return everyone, ready."""

    def ours(child: str) -> list[str]:
        words = [sys.executable, str(HERE / "extraction.py"), str(many), "--child", child]
        return [*words, "--backbone", arguments.backbone, "--fast", arguments.fast, "--device", arguments.device]

    def peer(file: str, python: str = sys.executable, photos: Path = few) -> list[str]:
        return [python, str(HERE / "peers" / file), str(photos), arguments.backbone, arguments.device]

    commands = {NAIVE: peer("naive.py", photos=few if arguments.device == "cpu" else many)}
    if importlib.util.find_spec("timm"):
        commands[f"timm {version('timm')}, as documented"] = peer("timm_loop.py")
    if importlib.util.find_spec("img2vec_pytorch"):
        commands[f"img2vec_pytorch {version('img2vec_pytorch')}, one image a call"] = peer("img2vec.py")
    if arguments.thingsvision:
        commands["thingsvision, batch 32"] = peer("thingsvision_loop.py", arguments.thingsvision)
    commands |= {OURS: ours("exact"), FAST: ours("fast"), MODEL: ours("model"), DECODE: ours("decode")}
    commands |= {FAST_MODEL: ours("fast-model"), FAST_DECODE: ours("fast-decode")}
    return {
        name: Contender(name, command, scratch / f"{number}.log")
        for number, (name, command) in enumerate(commands.items())
    }


def report(arguments: argparse.Namespace, speeds: dict[str, float]) -> None:
    """Print the table, and the machine under it."""

    def bound_of(model: float, decode: float) -> float:
        return 1 / (1 / model + 1 / decode) if arguments.device == "cpu" else min(model, decode)

    bound = bound_of(speeds[MODEL], speeds[DECODE])
    fast_bound = bound_of(speeds[FAST_MODEL], speeds[FAST_DECODE])
    ours = (OURS, FAST, MODEL, DECODE, FAST_MODEL, FAST_DECODE)
    peers = [speed for name, speed in speeds.items() if name not in ours]
    print(f"| {arguments.backbone} | images/s | against the naive loop |")
    print("|---|---|---|")
    for name, speed in [*speeds.items(), ("bound of exact", bound), ("bound of fast", fast_bound)]:
        label = f"{name} (`{arguments.fast}`)" if name == FAST else name
        print(f"| {label} | {speed:.1f} | {speed / speeds[NAIVE]:.2f} |")
    print()
    print(f"exact against its bound: {speeds[OURS] / bound:.3f}; fast against its own: {speeds[FAST] / fast_bound:.3f}")
    print(f"exact against the best peer: {speeds[OURS] / max(peers):.2f}, fast: {speeds[FAST] / max(peers):.2f}")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "pillow"))
    print(f"{machine(arguments.device)}; {libraries}; median of {arguments.rounds} rounds")


def options_of(words: str) -> dict[str, str]:
    """Return ``--decode fast --precision bf16`` as keywords."""
    parts = words.split()
    return {key.removeprefix("--"): value for key, value in zip(parts[::2], parts[1::2], strict=True)}


def extracting(photos: Path, backbone: str, options: dict[str, Any]) -> None:
    """Serve whole runs of `extract` into a new cache each, the exported graph stored before."""
    from pipeline import extract

    with tempfile.TemporaryDirectory() as scratch:
        caches = Path(scratch) / "caches"

        def run() -> int:
            for path in caches.glob("*.h5*"):
                path.unlink()
            cache = extract(photos, backbone=backbone, cache=caches, **options)
            assert cache.summary.inferred == len(cache) == len(cache.rows)
            print(json.dumps(cache.summary.as_dict()), file=sys.stderr)
            return len(cache)

        serve(run)


def model(photos: Path, spec: str, options: dict[str, Any]) -> None:
    """Serve the network alone: blocks that are in memory, a thread a core; on a GPU three threads, as it is fed."""
    from pipeline.backbone import Backbone
    from pipeline.runtime import open_runtime

    backbone = Backbone.open(spec)
    crop = backbone.preprocessing.crop
    how = {key: value for key, value in options.items() if key in ("device", "precision")}
    with tempfile.TemporaryDirectory() as graphs:
        runtime = open_runtime(backbone, ["penultimate"], images=10**6, graphs=graphs, **how)
    pixels = np.random.default_rng(0).integers(0, 256, (runtime.batch_size, crop, crop, 3), np.uint8)
    on_cpu = how["device"] == "cpu"
    count = (os.cpu_count() or 1) if on_cpu else 3
    calls = 40 if on_cpu else 15
    if on_cpu and spec == "efficientnet_lite0":
        calls = max(20, 1500 // count // len(pixels))
    serve(on_threads(lambda _: runtime(pixels), count, calls, len(pixels)))


def decode(photos: Path, spec: str, options: dict[str, Any]) -> None:
    """Serve decoding alone: read, digest, decode, statistics, resize and crop, a thread a core."""
    from pipeline.backbone import Backbone
    from pipeline.images import ImageSource, prepare

    how = Backbone.open(spec).preprocessing
    source = ImageSource.open(photos)
    count = os.cpu_count() or 1

    def one(row: int) -> None:
        prepare(source.read(row % len(source)), how, options.get("decode", "exact"))

    serve(on_threads(one, count, len(source) // count, 1))


def on_threads(work: Callable[[int], object], count: int, calls: int, images: int) -> Callable[[], int]:
    """Return what calls `work` so many times on each of several threads at once."""

    def share(first: int) -> None:
        for number in range(calls):
            work(first + number * count)

    def run() -> int:
        threads = [threading.Thread(target=share, args=(first,)) for first in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return count * calls * images

    return run


CHILDREN: dict[str, Callable[[Path, str, dict[str, Any]], None]] = {
    "exact": extracting,
    "fast": extracting,
    "model": model,
    "decode": decode,
    "fast-model": model,
    "fast-decode": decode,
}

if __name__ == "__main__":
    main()

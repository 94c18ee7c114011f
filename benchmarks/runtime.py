"""The runtimes side by side on a CPU: images a second, as ratios to the plain torch loop of the same run.

    python benchmarks/runtime.py
    python benchmarks/runtime.py --backbone vit_b_32:random --rounds 3

What is compared takes turns within each round, so that a busy machine slows all of it alike; medians are printed.
Pixels are in memory: no decoding. "Plain torch" is what people write: the network as it comes, NCHW, batches of 32,
torch's own threads. The others run one call a thread, as `extract` does; bf16 with OpenVINO where that is installed and
the CPU has it, else with torch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.backbone import Backbone
from pipeline.runtime import Runtime, open_runtime, runtime_name
from pipeline.runtime.torch_runtime import Normalize

PLAIN, BATCH = "plain torch", 32
START = """
import sys, time
started = time.perf_counter()
import numpy as np
from pipeline.backbone import Backbone
from pipeline.runtime import open_runtime
backbone = Backbone.open({spec!r})
runtime = open_runtime(backbone, ["penultimate"], device="cpu", graphs={graphs})
crop = backbone.preprocessing.crop
runtime(np.zeros((1, crop, crop, 3), np.uint8))
print(time.perf_counter() - started, "torch" in sys.modules)
"""


def main() -> None:
    """Print a table a backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["efficientnet_lite0", "resnet50:random"])
    parser.add_argument("--images", type=int, default=32, help="a thread and turn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"| backbone | threads | plain torch, images/s | torch runtime | ONNX Runtime | bf16: {runtime_name('cpu')} |"
    )
    print("|---|---|---|---|---|---|")
    starts = []
    for spec in arguments.backbone:
        backbone = Backbone.open(spec)
        with tempfile.TemporaryDirectory() as graphs:
            before = time.perf_counter()
            ours = open_runtime(backbone, ["penultimate"], device="cpu", images=10**6, graphs=graphs)
            exported = time.perf_counter() - before
            lower = open_runtime(backbone, ["penultimate"], device="cpu", precision="bf16", graphs=graphs)
            for threads in (1, 2):
                speed = compare(backbone, ours, lower, threads, arguments.images, arguments.rounds)
                ratios = " | ".join(f"{speed[name] / speed[PLAIN]:.2f}" for name in speed if name != PLAIN)
                print(f"| {spec} | {threads} | {speed[PLAIN]:.1f} | {ratios} |", flush=True)
            with_graph, without = start_times(spec, Path(graphs), arguments.rounds)
        starts.append(f"| {spec} | {exported:.1f} | {without:.2f} | {with_graph:.2f} |")
    print("\n| backbone | load and export, s | first answer of a new process with torch, s | with a stored graph, s |")
    print("|---|---|---|---|")
    print("\n".join(starts))


def compare(
    backbone: Backbone, ours: Runtime, lower: Runtime, threads: int, images: int, rounds: int
) -> dict[str, float]:
    """Return images a second, medians of rounds in which each takes its turn; the first round is not counted."""
    crop = backbone.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, crop, crop, 3), np.uint8)
    folded = open_runtime(backbone, ["penultimate"], device="cpu")
    network, normalise = backbone.load(["penultimate"]), Normalize(backbone.preprocessing, torch.device("cpu"))

    def plain() -> int:
        torch.set_num_threads(threads)
        for _ in range(max(1, threads * images // BATCH)):
            with torch.inference_mode():
                network(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()))
        return max(1, threads * images // BATCH) * BATCH

    def shared(runtime: Runtime) -> Callable[[], int]:
        calls = max(1, images // runtime.batch_size)

        def work() -> None:
            for _ in range(calls):
                runtime(pixels[: runtime.batch_size])

        def run() -> int:
            torch.set_num_threads(1)
            workers = [threading.Thread(target=work) for _ in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return threads * calls * runtime.batch_size

        return run

    turns = {PLAIN: plain, folded.name: shared(folded), ours.name: shared(ours), f"{lower.name}, bf16": shared(lower)}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, run in turns.items():
            before = time.perf_counter()
            done = run()
            seconds[name].append((time.perf_counter() - before) / done)
    return {name: 1 / statistics.median(values[1:]) for name, values in seconds.items()}


def start_times(spec: str, graphs: Path, rounds: int) -> tuple[float, float]:
    """Return the seconds from a new interpreter's first import to its first answer, with a stored graph and without."""
    found: dict[str | None, list[float]] = {str(graphs): [], None: []}
    for _ in range(rounds):
        for place, values in found.items():
            code = START.format(spec=spec, graphs=repr(place))
            told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            values.append(float(told.split()[0]))
    return statistics.median(found[str(graphs)]), statistics.median(found[None])


if __name__ == "__main__":
    main()

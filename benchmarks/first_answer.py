"""How long a new user waits: whole commands in an empty folder, compared with an earlier version of this project.

    git worktree add ../before 39b7e02
    python benchmarks/first_answer.py PHOTOS --before ../before

PHOTOS is a folder with one folder per class. The commands take turns with the earlier version's, each a process of its
own; the median of the rounds counts. `again` extracts once more into another empty cache, with everything else that the
first run left. `predict` is compared with ten lines of onnxruntime on the exported model (`snippet`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from turns import machine

HERE = Path(__file__).parent.parent
SNIPPET = """
import sys, json, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
image = Image.open(sys.argv[2]).convert("RGB")
short = min(image.size)
image = image.resize((round(256 * image.width / short), round(256 * image.height / short)), Image.Resampling.BICUBIC)
left, top = (image.width - 224) // 2, (image.height - 224) // 2
pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))[None]
print(session.run(None, {session.get_inputs()[0].name: pixels})[0])
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--before", required=True, help="a checkout of the earlier version")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    photos = Path(arguments.photos).resolve()
    photo = str(next(path for path in sorted(photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")))
    versions = {"before": Path(arguments.before).resolve(), "now": HERE}
    times: dict[str, dict[str, list[float]]] = {}
    for number in range(arguments.rounds):
        for version, source in versions.items():
            with tempfile.TemporaryDirectory() as scratch:
                place = Path(scratch)
                for step, seconds in steps(source, str(photos), photo, place).items():
                    times.setdefault(step, {}).setdefault(version, []).append(seconds)
                    print(f"round {number}: {version}: {step}: {seconds:.2f} s", file=sys.stderr, flush=True)
    print("| seconds | before | now | now / before |")
    print("|---|--:|--:|--:|")
    for step, found in times.items():
        before, now = median(found["before"]), median(found["now"])
        print(f"| {step} | {before:.2f} | {now:.2f} | {now / before:.2f} |")
    print(machine())


def steps(source: Path, photos: str, photo: str, place: Path) -> Mapping[str, float]:
    """Run the commands once in an empty folder and return the seconds of each."""
    found = {"evaluate, empty folder": timed(source, place, "evaluate", photos)}
    caches = place / "features_cache"
    for path in caches.glob("*.h5*"):
        path.unlink()
    shutil.rmtree(place / "runs")
    found["evaluate, again"] = timed(source, place, "evaluate", photos)
    found["fit, after evaluate"] = timed(source, place, "fit", photos, "--out", "a.model")
    found["predict, one photo"] = timed(source, place, "predict", "a.model", photo)
    timed(source, place, "export", "a.model", "--out", "a.onnx")
    found["snippet of onnxruntime, one photo"] = run([sys.executable, "-c", SNIPPET, "a.onnx", photo], place, {})
    found["--help"] = timed(source, place, "--help")
    return found


def timed(source: Path, place: Path, *words: str) -> float:
    """Return the seconds of one command of a version."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *words]
    return run(command, place, {"PYTHONPATH": str(source)})


def run(command: Sequence[str], place: Path, more: Mapping[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=place, env={**os.environ, **more}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[-3:])} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

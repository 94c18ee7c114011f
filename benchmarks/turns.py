"""Contenders that take turns: each a process that is ready and waits, so that nobody's loading is timed.

A contender prints ``ready``, and then for each line that it reads runs once and prints ``{"images": n, "seconds": s}``.
Nothing here imports the package: a contender may live in an environment of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PATIENCE = 20  # seconds that a process has to end


def serve(run: Callable[[], int]) -> None:
    """Run once for each line that comes in; `run` returns how many images it did."""
    said = sys.stdout
    sys.stdout = sys.stderr  # progress bars and greetings of whatever is being timed
    print("ready", file=said, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        images = run()
        print(json.dumps({"images": images, "seconds": time.perf_counter() - started}), file=said, flush=True)


class Contender:
    """One waiting process.

    Parameters
    ----------
    name : str
    command : sequence of str
    log : Path
        Where its errors go.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        while (said := self._said()) != "ready":  # what a library prints as it loads is passed by
            if not said and self._process.poll() is not None:
                self._fail()

    def turn(self) -> float:
        """Return the images a second of one run."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        said = self._said()
        if not said:
            self._fail()
        answer = json.loads(said)
        return answer["images"] / answer["seconds"]

    def stop(self) -> None:
        """End the process: it has read all there is, and may stop what it started itself; one that hangs is killed."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _fail(self) -> None:
        self.stop()
        raise SystemExit(f"{self.name} failed:\n{self.log.read_text(errors='replace')[-2000:]}")


def take_turns(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Return images a second, a figure a round; one round before them warms up and is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            speed = contender.turn()
            print(f"round {number}: {name}: {speed:.1f} images/s", file=sys.stderr, flush=True)
            if number:
                speeds[name].append(speed)
    return speeds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine(device: str = "cpu") -> str:
    """Return what this machine is, in a line, with its GPU where that is what was measured."""
    import os
    import platform

    cpu = platform.processor() or platform.machine()
    place = Path("/proc/cpuinfo")
    if place.exists():
        names = [line.partition(":")[2].strip() for line in place.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device == "cpu":
        return f"{cores} cores of {cpu}"
    import torch

    return f"{torch.cuda.get_device_name(device)} and {cores} cores of {cpu}"

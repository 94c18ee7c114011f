"""Any bytes at all, given to what opens caches, models and tables."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.parametrize("target", ["cache", "model", "table"])
def test_any_bytes_are_opened_or_refused(target, promise, size):
    """Ten minutes in full, with atheris where it is installed; by our own mutations otherwise, and in the quick run."""
    followed = size(quick=False, full=importlib.util.find_spec("atheris") is not None)
    how = ["--seconds", "200"] if followed else ["--runs", str(size(quick=60, full=20_000))]
    with promise(f"any bytes given to the opener of a {target} are opened or refused with a PipelineError") as on_trial:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if not followed:
            environment["PYTHONFAULTHANDLER"] = "1"
        ended = subprocess.run(
            [sys.executable, FUZZ, target, *how], capture_output=True, text=True, errors="replace", env=environment
        )
        runs = re.findall(r"Done (\d+) runs|^#(\d+)\s", ended.stderr, re.MULTILINE)
        on_trial.held(max((int(number) for pair in runs for number in pair if number), default=1))
        if ended.returncode:
            # From the exception, or what libFuzzer says of a crash, to the input in base64, which comes last.
            told = re.search(r"(Uncaught Python exception|==\d+==|Fatal Python error|Traceback)[\s\S]*", ended.stderr)
            on_trial.lost((told[0] if told else ended.stderr)[:200] + " ... " + ended.stderr[-250:])

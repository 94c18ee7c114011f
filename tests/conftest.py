"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_backbone import Extractor, Planted

# Test files run side by side, one a core: threads inside each would only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it starts with `&` ignore Ctrl-C, and so would every program that a test sends one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What /proc/cpuinfo says of processors that compute bf16 or not. The package asks for these flags in one place.
PROCESSORS = {
    "avx2": frozenset(("avx", "avx2", "fma")),
    "avx512_bf16": frozenset(("avx", "avx2", "fma", "avx512f", "avx512_bf16")),
    "amx_bf16": frozenset(("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")),
    "arm": frozenset(("fp", "asimd", "bf16")),
}


def replace_processor(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let the package find the flags of another processor; a file that a test names itself is read as before."""
    from pipeline.runtime import base

    read = base._cpu_flags
    patch.setattr(
        base,
        "_cpu_flags",
        lambda cpuinfo: set(PROCESSORS[name]) if cpuinfo == Path("/proc/cpuinfo") else read(cpuinfo),
    )


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose one of `PROCESSORS` for the rest of a test."""
    return lambda name: replace_processor(monkeypatch, name)


@pytest.fixture(scope="session", autouse=True)
def _processor_of_the_session(request: pytest.FixtureRequest) -> Iterator[None]:
    name = request.config.getoption("--processor")
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            replace_processor(patch, name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run all tests in an empty folder: by default the package reads and writes `features_cache/` and `runs/` here.

    A network that `make demo` had exported there would run in the place of torch, and give other last digits.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working_directory"))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """The processor that the package finds; and how much of `tests/reliability/` runs, and where it is written down."""
    parser.addoption("--processor", choices=sorted(PROCESSORS), help="run as on this processor, in this process")
    parser.addoption("--trials", choices=("quick", "full"), default="quick", help="how many trials a promise gets")
    parser.addoption(
        "--results",
        metavar="FILE",
        type=lambda name: str(Path(name).resolve()),
        help="append a line of JSON a promise on trial",
    )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The planted network in the place of the real one."""
    from fake_backbone import Planted

    import pipeline.extraction.encoder as network_room

    found = Planted()
    monkeypatch.setattr(network_room, "open_runtime", found)
    return found


@pytest.fixture
def run(tmp_path, network: Planted) -> Extractor:
    """`extract` with the planted network into one folder of caches."""
    from fake_backbone import Extractor

    return Extractor(network, tmp_path / "caches")

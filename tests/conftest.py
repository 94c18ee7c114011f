"""What all tests share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from planted import Extractor, Planted

# Test files run side by side, one a core: threads inside each would only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it starts with `&` ignore Ctrl-C, and so would every program that a test sends one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `tests/reliability/`: how much of it runs, and where it is written down."""
    parser.addoption("--trials", choices=("quick", "full"), default="quick", help="how many trials a promise gets")
    parser.addoption("--results", metavar="FILE", help="append a line of JSON a promise on trial")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The planted network in the place of the real one."""
    from planted import Planted

    import pipeline.extraction.network as network_room

    found = Planted()
    monkeypatch.setattr(network_room, "open_runtime", found)
    return found


@pytest.fixture
def run(tmp_path, network: Planted) -> Extractor:
    """`extract` with the planted network into one folder of caches."""
    from planted import Extractor

    return Extractor(network, tmp_path / "caches")

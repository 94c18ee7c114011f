"""A part of a source is a collection of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_backbone import Extractor, Planted

from pipeline.extraction import encoder as network_room
from pipeline.images import ImageSource


def test_extracting_a_part_leaves_the_cache_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    extract = Extractor(network, tmp_path)
    source = ImageSource.open("digits").take(range(12))
    whole = extract(source)
    part = extract(source.take(range(4)))
    assert whole.path.exists()
    assert part.path != whole.path
    assert part.summary.inferred == 0  # the same content
    assert source.take(range(12)).place == source.place

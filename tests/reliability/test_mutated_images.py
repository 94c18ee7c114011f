"""Photos that are damaged, hostile or no photos at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bad_images import mutation, seeds
from sandbox import MEMORY, SECONDS, Contained

from pipeline.images import ImageSource

AT_ONCE = 500  # photos in a folder


def test_a_mutated_photo_is_features_or_a_reason_within_the_limits(run, promise, size, tmp_path):
    count = size(quick=400, full=10_000)
    reasons: dict[Path, dict[str, str | None]] = {}
    with (
        promise(f"no mutated photo crashes, hangs, or takes over {SECONDS} s or {MEMORY >> 20} MB") as on_trial,
        Contained("photo") as worker,
    ):
        for number in range(count):
            folder = tmp_path / f"photos{number // AT_ONCE}"
            folder.mkdir(exist_ok=True)
            name, data = mutation(number)
            (folder / name).write_bytes(data)
            with on_trial.trial(name):
                said = worker.ask(folder / name)
                assert "died" not in said, said["died"]
                reasons.setdefault(folder, {})[name] = said["reason"]
    with promise("of a folder of mutated photos: found = stored + reused + failed, each as it is alone") as on_trial:
        for folder, alone in reasons.items():
            for again in (False, True):
                with on_trial.trial(folder.name):
                    cache = run(folder)
                    done = cache.summary
                    assert done.images == len(alone) == done.stored + done.reused + done.failed
                    assert not (again and done.stored)
                    found = dict.fromkeys(cache.ids) | {name: why.name for name, why in cache.skipped.items()}
                    assert found == alone


def test_what_is_mutated_is_a_photo_or_a_bomb(tmp_path):
    """Seeds that nothing reads would prove nothing."""
    found = {}
    with Contained("photo") as worker:
        for name, data in seeds().items():
            (tmp_path / name).write_bytes(data)
            said = worker.ask(tmp_path / name)
            found[name] = said.get("died", said.get("reason"))
    bombs = {
        "pixels.png": "TOO_LARGE", "aspect.png": "TOO_LONG", "pixels.jpg": "TOO_LARGE", "within.jpg": "TOO_LARGE",
        "pixels.tif": "TOO_LARGE", "pixels.bmp": "TOO_LARGE", "pixels.gif": "TOO_LARGE", "text.png": "UNREADABLE",
        "profile.png": "UNREADABLE", "box.heic": found["box.heic"],
    }  # fmt: skip
    assert found == dict.fromkeys(seeds()) | bombs


def test_a_worker_that_dies_is_told_from_one_that_answers(tmp_path):
    """The limits are there: a reader that breaks them is found out."""
    from sandbox import READERS

    assert set(READERS) >= {"photo", "crash", "hang", "gluttony"}
    said = {}
    for name in ("crash", "hang", "gluttony"):
        with Contained(name, seconds=1) as worker:
            said[name] = worker.ask(tmp_path / "x")["died"]
    with Contained("crash") as worker:
        assert [worker.ask(tmp_path / "x")["died"] for _ in range(2)] == ["SIGSEGV"] * 2, "another takes its place"
    assert said == {
        "crash": "SIGSEGV",
        "hang": "still at it after 1 s of work, or 120 s of waiting",
        "gluttony": f"expected more than {MEMORY >> 20} MB",
    }


def test_what_is_no_file_is_counted_or_named(run, promise, tmp_path):
    """Pipes, links in circles, names that are no text."""
    photos = tmp_path / "photos"
    good = photos / "good"
    good.mkdir(parents=True)
    (good / "a.png").write_bytes(seeds()["colour.png"])
    made = {
        "pipe.jpg": os.mkfifo,
        "circle.png": lambda path: path.symlink_to("circle.png"),
        "one.gif": lambda path: path.symlink_to("other.gif"),
        "other.gif": lambda path: path.symlink_to("one.gif"),
        "nothing.jpg": lambda path: path.symlink_to("gone.jpg"),
        "folder.jpg": lambda path: path.mkdir(),
        "up": lambda path: path.symlink_to(".."),
        "device.jpg": lambda path: path.symlink_to("/dev/zero"),
        "empty.png": lambda path: path.touch(),
        "line\nbreak.png": lambda path: path.write_bytes(seeds()["colour.png"]),
    }
    with promise("what is no regular file is a failed image or a named skip, and nobody waits for it") as on_trial:
        for name, make in made.items():
            with on_trial.trial(repr(name)):
                make(good / name)
                _accounted(run, photos)
        with on_trial.trial("a name that is not UTF-8"):
            raw = os.fsencode(good) + b"/\xff\xfe.png"
            try:
                Path(os.fsdecode(raw)).write_bytes(seeds()["colour.png"])
            except OSError:
                pytest.skip("this file system takes UTF-8 names alone")
            _accounted(run, photos)


def _accounted(run, photos: Path) -> None:
    cache = run(photos)
    done = cache.summary
    assert done.images == done.stored + done.reused + done.failed
    source = ImageSource.open(photos)
    entries = [path for path in (photos / "good").iterdir() if not path.is_dir()]
    assert len(source) + len(source.skipped) >= len(entries), (source.ids, source.skipped)
    assert np.isfinite(cache.features()).all() and "good/a.png" in cache.ids

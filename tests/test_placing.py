"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.files import atomic_path


def put(path: Path, text: str, folder: bool) -> None:
    with atomic_path(path, folder=folder) as made:
        assert made.name == path.name and made.exists() is folder
        (made / "text" if folder else made).write_text(text)


def read(path: Path) -> str:
    return (path / "text" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_new_takes_the_place_of_what_was_there(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "it"
    for text in ("one", "two"):
        put(path, text, folder)
        assert read(path) == text and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "it"
    put(path, "one", folder)
    with pytest.raises(ValueError, match="half way"), atomic_path(path, folder=folder) as made:
        (made / "text" if folder else made).write_text("tw")
        raise ValueError("half way")
    assert read(path) == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_what_was_there_is_back_where_the_new_cannot_get_its_name(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    put(path, "one", folder)

    def refuse(self: Path, to: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        put(path, "two", folder)
    assert read(path) == "one" and list(tmp_path.iterdir()) == [path]


def test_a_new_folder_has_the_rights_of_any_other(tmp_path: Path) -> None:
    put(tmp_path / "it", "one", True)
    (tmp_path / "other").mkdir()
    assert (tmp_path / "it").stat().st_mode == (tmp_path / "other").stat().st_mode

"""The page, in a browser: photos dropped, answers read; with the keyboard alone; nothing from outside is markup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, drop, resize, until
from browser_checks import contrasts
from commands import class_folders, photo
from test_server import QUICK, TOKEN, Caller, running

from pipeline.model import fit

BROKEN = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose classes, training photos and name are all as unfriendly as files may be called."""
    place = tmp_path_factory.mktemp("page")
    class_folders(place / "photos", 8)
    shutil.move(place / "photos" / "bees", place / "photos" / BROKEN)
    fit(
        place / "photos",
        cache=place / "caches",
        out=place / f"{BROKEN}.model",
        keep_photos=True,
        weights=False,
        **QUICK,
    )
    photo(place / "new ants.png", "ants", 90)
    photo(place / f"{BROKEN}.png", "bees", 91)
    (place / "text.jpg").write_text("no photo")
    return place


@pytest.fixture(scope="module")
def call(place: Path) -> Iterator[Caller]:
    with running(place / f"{BROKEN}.model", cache=place / "caches") as caller:
        yield caller


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(shared: Any, call: Caller) -> Any:
    """The page, freshly opened, the model's name on it."""
    shared.get_log("browser")
    shared.get(call.server.url)
    until(shared, "#lead")
    for _ in range(600):
        if "Trained on" in text(shared, "#lead"):
            return shared
        shared.implicitly_wait(0.1)
    raise AssertionError(text(shared, "#lead"))


def text(opened: Any, selector: str) -> str:
    """Return what a person reads there."""
    return opened.execute_script("return document.querySelector(arguments[0]).innerText", selector)


def focus(opened: Any) -> str:
    """Return the id or the label of what has the focus."""
    return opened.execute_script(
        "const e = document.activeElement; return e.id || e.getAttribute('aria-label') || e.textContent"
    )


def test_a_dropped_photo_is_answered(page: Any, call: Caller, place: Path) -> None:
    drop(page, place / "new ants.png")
    (said,) = until(page, ".predicted")
    _, wanted = call("/predict?neighbours=4", (place / "new ants.png").read_bytes())
    assert said.text.split()[0] == wanted["label"] == "ants"
    assert text(page, ".name") == "new ants.png" and text(page, "#status") == "1 photo"
    assert page.execute_script("return [...document.querySelectorAll('.bars dt')].map(one => one.textContent)") == [
        one["label"] for one in wanted["classes"]
    ]
    widths = page.execute_script(
        "return [...document.querySelectorAll('.fill')].map(one => parseFloat(one.style.width))"
    )
    assert widths == pytest.approx([100 * one["probability"] for one in wanted["classes"]], abs=0.01)
    until(page, ".nearest img[src^='blob:']", 4)
    shown = page.execute_script("return [...document.querySelectorAll('.nearest img')].map(one => one.alt)")
    assert shown == [one["id"] for one in wanted["nearest"]]
    sizes = "return [...document.querySelectorAll('.nearest img')].map(one => one.complete ? one.naturalWidth : -1)"
    for _ in range(100):
        if page.execute_script(sizes) == [32] * 4:
            break
        page.implicitly_wait(0.1)
    assert page.execute_script(sizes) == [32] * 4


def test_two_photos_have_an_answer_each(page: Any, place: Path) -> None:
    drop(page, place / "new ants.png", place / f"{BROKEN}.png")
    assert {one.text.split()[0] for one in until(page, ".predicted", 2)} == {"ants", "<img"}
    assert text(page, "#status") == "2 photos"


def test_a_text_that_is_called_a_photo_is_refused_in_words(page: Any, place: Path) -> None:
    drop(page, place / "text.jpg")
    (problem,) = until(page, ".problem")
    assert "not an image" in problem.text and "send a JPEG" in problem.text
    drop(page, place / "new ants.png")
    until(page, ".predicted")


def test_an_unfamiliar_photo_is_flagged(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.linear_gradient("L").save(tmp_path / "stranger.png")
    drop(page, tmp_path / "stranger.png")
    (flag,) = until(page, ".flag")
    assert flag.text.startswith("Unfamiliar: ")


def test_with_the_keyboard_alone(page: Any, place: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key: str) -> None:
        ActionChains(page).send_keys(key).perform()

    press(Keys.TAB)
    assert focus(page) == "files"
    outline = page.execute_script("return getComputedStyle(document.getElementById('drop')).outlineStyle")
    assert outline == "solid"  # where one is can be seen, though the field itself is not
    page.switch_to.active_element.send_keys(f"{place / 'new ants.png'}\n{place / 'text.jpg'}")
    until(page, ".predicted"), until(page, ".problem")
    press(Keys.TAB)
    assert focus(page) == "clear"
    press(Keys.TAB)
    assert focus(page) == "Remove text.jpg"  # the newest is first
    press(Keys.ENTER)
    assert focus(page) == "Remove new ants.png" and text(page, "#status") == "1 photo"
    press(Keys.SPACE)
    assert focus(page) == "files" and not page.find_elements("css selector", ".card")


def test_names_from_outside_are_text_and_nothing_is_asked_for_elsewhere(page: Any, call: Caller, place: Path) -> None:
    drop(page, place / f"{BROKEN}.png")
    until(page, ".nearest img[src^='blob:']", 4)
    assert text(page, "h1") == BROKEN and BROKEN in text(page, ".predicted") and BROKEN in text(page, "#lead")
    assert page.execute_script("return document.querySelectorAll('[onerror], img[src=x]').length") == 0
    asked = page.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert asked and all(name.startswith((call.server.url, "blob:")) for name in asked)
    said = [one["message"] for one in page.get_log("browser")]
    assert not [one for one in said if "Content Security Policy" in one or "Uncaught" in one], said
    # What a script of somebody else would do here is refused by the policy.
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s)"
    )
    assert page.execute_script("return window.broken") is None


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_read_in_both_lights(dark: bool, call: Caller, place: Path) -> None:
    with browser(width=390, height=844, dark=dark) as opened:
        opened.get(call.server.url)
        drop(opened, place / "new ants.png", place / f"{BROKEN}.png", place / "text.jpg")
        until(opened, ".predicted", 2), until(opened, ".problem")
        for width in (390, 320, 1440):
            resize(opened, width, 844)
            assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width
        ratios = contrasts(opened)
        assert ratios and ratios[0][0] >= 4.5, ratios[:3]


def test_the_token_is_asked_for_and_used_for_pictures_too(shared: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with running(place / f"{BROKEN}.model", cache=place / "caches", token_file=tmp_path / "token") as call:
        shared.get(call.server.url)
        (secret,) = until(shared, "#token:not([hidden]) #secret")
        secret.send_keys("wrong-but-long-enough\n")
        until(shared, "#wrong:not([hidden])")
        assert "ants" not in text(shared, "main")
        secret.clear()
        secret.send_keys(f"{TOKEN}\n")
        until(shared, "#token[hidden]")
        drop(shared, place / "new ants.png")
        until(shared, ".nearest img[src^='blob:']", 4)
        assert TOKEN not in shared.current_url


def test_photos_wait_while_the_server_is_full(shared: Any, place: Path) -> None:
    from pipeline.server import Limits

    with running(place / f"{BROKEN}.model", cache=place / "caches", limits=Limits(places=1)) as call:
        shared.get(call.server.url)
        drop(shared, *[place / "new ants.png"] * 6)
        assert {one.text.split()[0] for one in until(shared, ".predicted", 6)} == {"ants"}

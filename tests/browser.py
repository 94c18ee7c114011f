"""A headless Chromium to read the server's page in; tests that want one skip, and say why, where there is none."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WAIT = 60  # seconds for an answer to appear: the machine may be busy


@contextmanager
def browser(*, width: int = 1440, height: int = 1000, dark: bool = False, requests: bool = False) -> Iterator[Any]:
    """Give a browser whose window has this size, on the outside of which nothing is asked for.

    Chromium keeps a window no narrower than 500 pixels: the size is that of the page's own viewport, as on a phone.
    With `requests` it keeps what it asked for, for `asked_for`.
    """
    pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for word in (
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--user-data-dir={profile}",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
        ):  # fmt: skip
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", **({"performance": "ALL"} if requests else {})})
        opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            resize(opened, width, height)
            lights(opened, dark=dark)
            yield opened
        finally:
            opened.quit()


def resize(opened: Any, width: int, height: int) -> None:
    """Give the page a viewport of this size, and return when its charts have followed, which they do frame by frame."""
    phone = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    frames(opened, 4)


def frames(opened: Any, count: int) -> None:
    """Wait until the page has been painted so many times."""
    opened.execute_async_script(
        """let [left, done] = arguments;
        const next = () => left-- ? requestAnimationFrame(next) : done();
        next();""",
        count,
    )


def lights(opened: Any, *, dark: bool, media: str = "") -> None:
    """Let the page be seen in the dark or in the light, on another medium such as `print` if one is named."""
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def asked_for(opened: Any) -> list[str]:
    """Return all addresses that were asked for since the last question, but their own content and the browser's."""
    events = [json.loads(one["message"])["message"] for one in opened.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "blob:", "chrome:"))]


def drop(opened: Any, *photos: Path) -> None:
    """Drop files on the page, as a hand does with the mouse."""
    from base64 import b64encode

    files = [[photo.name, b64encode(photo.read_bytes()).decode()] for photo in photos]
    opened.execute_script(
        """
        const carried = new DataTransfer();
        for (const [name, text] of arguments[0])
          carried.items.add(new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], name));
        for (const kind of ["dragenter", "dragover", "drop"])
          document.getElementById("drop").dispatchEvent(
            new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
        """,
        files,
    )


def until(opened: Any, selector: str, count: int = 1) -> list[Any]:
    """Return the elements of a selector as soon as there are so many."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def there(_: Any) -> list[Any]:
        found = opened.find_elements(By.CSS_SELECTOR, selector)
        return found if len(found) >= count else []

    return WebDriverWait(opened, WAIT, poll_frequency=0.1).until(there, f"{count} of {selector}")

"""Make README's picture: `python docs/report_picture.py PHOTOS` (a folder with one folder per class).

It evaluates the photos, writes the report, and takes a screenshot of it in a headless Chromium, from the top to the
last table before the first photo: the picture shows no photo of the data set. It needs selenium, Chromium and its
driver.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

import pipeline as pl

PICTURE = Path(__file__).with_name("report.png")
WIDTH = 1000  # pixels; README is shown about as wide

# The height of the page above its first photo, up to the end of the last table there.
ABOVE_THE_PHOTOS = """
const top = box => box.getBoundingClientRect().top + scrollY, end = box => box.getBoundingClientRect().bottom + scrollY;
const photos = [...document.querySelectorAll("main img, section img, image")].filter(box => box.clientWidth > 0);
const first = Math.min(...photos.map(top), document.documentElement.scrollHeight);
const tables = [...document.querySelectorAll("table")].map(end).filter(y => y < first);
return Math.ceil(Math.max(...tables) + 28);
"""


def take_picture(page: Path) -> Image.Image:
    """Return a screenshot of a report, without the part that shows photos."""
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from browser import browser, frames, resize

    with browser(width=WIDTH, height=1000) as opened:
        opened.get(page.resolve().as_uri())
        frames(opened, 10)
        height = opened.execute_script(ABOVE_THE_PHOTOS)
        resize(opened, WIDTH, height)
        opened.execute_script("document.documentElement.style.overflow = 'hidden'")  # no scroll bar
        frames(opened, 10)
        image = Image.open(io.BytesIO(opened.get_screenshot_as_png())).convert("RGB")
    return image.quantize(64, dither=Image.Dither.NONE)  # flat colors: a third of the size


def main(photos: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = pl.extract(photos, cache=Path(folder, "caches"))
        run = pl.evaluate(cache, out=Path(folder, "run"))
        take_picture(pl.write_report(run, out=Path(folder, "report.html")).path).save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])

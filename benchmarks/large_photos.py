"""Photos as phones and camera traps make them, and what `--decode fast` changes on them.

    python benchmarks/large_photos.py make PHOTOS OUT --photos 120
    python benchmarks/large_photos.py steps OUT
    python benchmarks/large_photos.py agreement OUT
    python benchmarks/extraction.py OUT/12 --copies 1 --fast "--decode fast"

PHOTOS is a folder with one folder per class, or with such folders in train and val. `make` writes OUT/12/CLASS/*.jpg
and the same photos at 0.2, 2 and 48 megapixels beside it: enlarged, sharpened, with the noise of a sensor, JPEG of
quality 90 to 95 with 4:2:0 subsampling, every fourth stored on its side with an EXIF orientation. It prints the bytes
per pixel, which decide how long a JPEG takes to decode. The smaller photos are the 12-megapixel ones scaled down.

`steps` prints the milliseconds of CPU time of each step of one photo on one thread, both modes interleaved.
`agreement` embeds the photos from exact pixels and from JPEGs decoded at a reduced scale, for several smallest sides of
the reduced photo, and prints how far embeddings move and how many cross-validated predictions change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageFilter
from turns import machine

MEGAPIXELS = (12, 2, 0.2, 48)
QUALITIES = (90, 92, 95)
ON_ITS_SIDE = 6  # the EXIF orientation of a phone held upright
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)  # smallest short side after the reduction, in sides of the resize
FORMATS = {"WebP": {"format": "WEBP", "quality": 90}, "PNG": {"format": "PNG"}, "HEIC": {"format": "HEIF"}}


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("photos")
    make.add_argument("out")
    make.add_argument("--photos", dest="count", type=int, default=120)
    make.add_argument("--largest", type=int, default=2, help="one of so many photos is made at 48 megapixels too")
    steps = commands.add_parser("steps")
    steps.add_argument("out")
    steps.add_argument("--rounds", type=int, default=9)
    agreement = commands.add_parser("agreement")
    agreement.add_argument("out")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make_photos(Path(arguments.photos), Path(arguments.out), arguments.count, arguments.largest)
    elif arguments.command == "steps":
        print_steps(Path(arguments.out), arguments.rounds)
    else:
        print_agreement(Path(arguments.out))
    print(machine())


def make_photos(photos: Path, out: Path, count: int, largest: int) -> None:
    """Write the photos at every size, and print their bytes per pixel."""
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [paths[at] for at in np.linspace(0, len(paths) - 1, count).astype(int)]
    with get_context("spawn").Pool(2) as pool:
        tasks = [(path, out, number, number % largest == 0) for number, path in enumerate(chosen)]
        made = pool.starmap(make_photo, tasks)
    print("| megapixels | photos | MB per photo | bytes per pixel |")
    print("|---|---|---|---|")
    for size in MEGAPIXELS:
        sizes = np.array([sizes[size] for sizes in made if size in sizes], float)  # (n, 2): bytes, pixels
        each = sizes[:, 0] / sizes[:, 1]
        print(
            f"| {size} | {len(sizes)} | {sizes[:, 0].mean() / 1e6:.2f} | {np.median(each):.2f} "
            f"({each.min():.2f} to {each.max():.2f}) |"
        )


def make_photo(path: Path, out: Path, number: int, with_largest: bool) -> dict[float, tuple[int, int]]:
    """Write one photo at every size, and return bytes and pixels of each."""
    rng = np.random.default_rng(number)
    small = Image.open(path).convert("RGB")
    large = as_a_camera_makes_it(small, 12, rng)
    sizes = {}
    for size in MEGAPIXELS:
        if size == 48:
            if not with_largest:
                continue
            photo = as_a_camera_makes_it(small, 48, np.random.default_rng(number))
        elif size == 12:
            photo = large
        else:
            photo = scaled(large, size)
        file = out / str(size) / path.parent.name / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if number % 4 == 3:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = ON_ITS_SIDE
        photo.save(file, "JPEG", quality=QUALITIES[number % 3], subsampling="4:2:0", exif=exif)
        sizes[size] = (file.stat().st_size, photo.width * photo.height)
    return sizes


def scaled(image: Image.Image, megapixels: float) -> Image.Image:
    """Return the image at this number of pixels."""
    factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def as_a_camera_makes_it(image: Image.Image, megapixels: float, rng: np.random.Generator) -> Image.Image:
    """Return the image enlarged, sharpened, and with noise that grows with the brightness and is partly smoothed."""
    large = scaled(image, megapixels).filter(ImageFilter.UnsharpMask(radius=3, percent=120, threshold=2))
    values = np.asarray(large, np.float32)
    noise = rng.standard_normal((*values.shape[:2], 1), np.float32)  # luminance noise is finer than colour noise
    noise += 0.5 * np.roll(noise, 1, axis=1)
    values = values + noise * (2.5 + 0.2 * np.sqrt(values))
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def print_steps(out: Path, rounds: int) -> None:
    """Print the milliseconds of each step, exact and fast, for JPEGs of each size and for other formats at 12."""
    from pipeline.backbone import Backbone
    from pipeline.images import Photo, pixel_statistics, prepare
    from pipeline.images.decode import decode
    from pipeline.images.photo import read_file
    from pipeline.images.preprocess import preprocess, preprocess_fast

    how = Backbone.open().preprocessing
    print("| photo | read, digest | decode | statistics | resize exact | resize fast | exact | fast | exact / fast |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, photos in files_of(out):
        times: dict[str, list[float]] = {}
        timed = partial(add_time, times)
        for number in range(rounds):
            content = photos[number % len(photos)]

            if isinstance(content, Path):
                timed("read", lambda path=content: read_file(str(path)))
                photo = read_file(str(content))
            else:
                photo = Photo(bytes(16), (1, 1), content)
            image = decode(photo.content)
            timed("decode", lambda photo=photo: decode(photo.content))
            timed("statistics", lambda image=image: pixel_statistics(image))
            timed("resize", lambda image=image: preprocess(image, how))
            timed("resize fast", lambda image=image: preprocess_fast(image, how))
            timed("exact", lambda photo=photo: prepare(photo, how, "exact"))
            timed("fast", lambda photo=photo: prepare(photo, how, "fast"))
        middle = {step: median(values) for step, values in times.items()}
        shown = [
            f"{middle[step]:.1f}" if step in middle else ""
            for step in ("read", "decode", "statistics", "resize", "resize fast", "exact", "fast")
        ]
        print(f"| {name} | {' | '.join(shown)} | {middle['exact'] / middle['fast']:.2f} |", flush=True)


def add_time(times: dict[str, list[float]], step: str, work: Callable[[], object]) -> None:
    """Run the step and add its milliseconds of this thread's CPU time to the others of its name."""
    started = time.thread_time()
    work()
    times.setdefault(step, []).append(1000 * (time.thread_time() - started))


def files_of(out: Path) -> Iterator[tuple[str, list[Path] | list[bytes]]]:
    """Give the JPEGs of each size, and some of the 12-megapixel ones in other formats."""
    for size in sorted(MEGAPIXELS):
        yield f"JPEG, {size} MP", sorted((out / str(size)).rglob("*.jpg"))
    twelve = sorted((out / "12").rglob("*.jpg"))[:3]
    for name, options in FORMATS.items():
        if name == "HEIC":
            try:
                import pillow_heif
            except ImportError:
                continue
            pillow_heif.register_heif_opener()
        encoded = []
        for path in twelve:
            file = BytesIO()
            Image.open(path).save(file, **options)
            encoded.append(file.getvalue())
        yield f"{name}, 12 MP", encoded


def print_agreement(out: Path) -> None:
    """Print a row per size and smallest side of the reduced photo."""
    from agreement import embedded, predictions

    from pipeline.backbone import Backbone
    from pipeline.images import ImageSource
    from pipeline.images.decode import decode, decode_reduced, reduced_scale
    from pipeline.images.preprocess import preprocess, preprocess_fast
    from pipeline.runtime import open_runtime

    backbone = Backbone.open()
    how = backbone.preprocessing
    runtime = open_runtime(backbone, ["penultimate"], images=10**6, graphs=str(out), device="cpu")
    print(
        "| megapixels | photos | short side at least | scales | grey levels: mean, largest | smallest cosine | "
        "changed predictions | accuracy exact | accuracy |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for size in sorted(MEGAPIXELS):
        source = ImageSource.open(out / str(size))
        labels = np.array(source.columns["label"])
        contents = [source.read(row).content for row in range(len(source))]
        exact = np.stack([preprocess(decode(content), how) for content in contents])
        wanted = embedded(runtime, exact)
        expected = predictions(wanted, labels)
        for factor in (0, *FACTORS):
            scale_of = partial(reduced_scale, side=round(factor * how.resize)) if factor else None
            scales, pixels = set(), np.empty_like(exact)
            for row, content in enumerate(contents):  # one photo at a time: at full size they would not fit into memory
                photo = decode_reduced(content, scale_of)
                scales.add(photo.scale)
                pixels[row] = preprocess_fast(photo.image, how, photo.size, photo.box)
            off = np.abs(pixels.astype(np.int16) - exact)
            found = embedded(runtime, pixels)
            cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
            got = predictions(found, labels)
            name = "full size" if factor == 0 else f"{factor:g} x {how.resize}"
            listed = ", ".join(map(str, sorted(scales)))
            print(
                f"| {size} | {len(source)} | {name} | {listed} | {off.mean():.2f}, {off.max()} | "
                f"{cosines.min():.5f} | {(got != expected).sum()} | {np.mean(expected == labels):.4f} | "
                f"{np.mean(got == labels):.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Small pictures of photos, for a person to recognise them by."""

from __future__ import annotations

from io import BytesIO

from pipeline.images.photo import Photo

SIDE = 160  # pixels of the long side
QUALITY = 80


def thumbnail(photo: Photo, side: int = SIDE) -> bytes:
    """Return the photo as a small upright JPEG, none of the original's metadata in it.

    Raises
    ------
    UnreadablePhoto
        With the reason.
    """
    image = photo.pixels()
    image.thumbnail((side, side))  # in place, and never larger than it was
    image.info.clear()  # where and when a photo was taken is not what it shows
    small = BytesIO()
    image.save(small, "JPEG", quality=QUALITY)
    return small.getvalue()

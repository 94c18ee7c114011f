"""Tars and Parquet tables of small photos, made member by member."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from test_images import photo_bytes

BLOCK = 512

Content = bytes | str | int | tarfile.TarInfo


def write_tar(path: Path, members: Iterable[tuple[str, Content]], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar: of each member its name and what it is: bytes, text, the photo that says a number, or a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            data = b""
            if isinstance(content, int):
                data = photo_bytes(content)
            elif isinstance(content, str):
                data = content.encode()
            elif isinstance(content, bytes):
                data = content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def header(kind: bytes, link: str = "", **pax: str) -> tarfile.TarInfo:
    """Return the header of a member of another kind, with further pax records."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    info.pax_headers = {name.replace("_", "."): value for name, value in pax.items()}
    return info


def with_checksum(block: bytes) -> bytes:
    """Return a header with its checksum made right."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def write_parquet(file: Path, images: Sequence[Any], /, rows: int = 1000, **columns: Any) -> Path:
    """Write a table with the column `image`; an int is the photo that says it."""
    cells = [photo_bytes(image) if isinstance(image, int) else image for image in images]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({**columns, "image": cells}), file, row_group_size=rows)
    return file

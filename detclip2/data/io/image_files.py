"""Image files of data sets: checks before they are needed."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detclip2.data.io.coco_values import edge_of
from detclip2.data.io.image import Header, check_image
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


def check_images(paths: Iterable[str]) -> Iterator[Header | UserError]:
    """The `check_image` of each file, in threads: its header, or what is wrong with it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL
        yield from pool.map(_checked, paths)


def _checked(path: str) -> Header | UserError:
    try:
        return check_image(path)
    except UserError as error:
        return error


def stated_size(record: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height by the annotations; where they do not state them, those of `size`."""
    return edge_of(record.get("width")) or size[0], edge_of(record.get("height")) or size[1]


def size_problem(stated: tuple[int, int], header: Header) -> str:
    """Why annotations do not fit an image file; "" if they do.

    Args:
        stated: width and height by the annotations.
        header: of the file.
    """
    if stated == header.size:
        return ""
    sizes = f"is {_by(header.size)} pixels, but its annotations are of {_by(stated)}"
    if stated == header.stored:
        return (
            f"{sizes}, its size before its EXIF orientation is applied: its boxes look to be in "
            "the frame of the sensor"
        )
    return sizes


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def image_problem(records: Sequence[Any]) -> str:
    """What is wrong with the image files of records, in a sentence; "" if nothing is."""
    start = time.perf_counter()
    files = {record["file_name"]: record for record in records if _has_file(record)}
    problems = []
    for path, header in zip(files, check_images(files), strict=True):
        if not isinstance(header, Header):
            problems.append(str(header).rstrip("."))
        elif problem := size_problem(stated_size(files[path], header.size), header):
            problems.append(f"{path} {problem}")
    seconds = time.perf_counter() - start
    logger.info("%d test images were checked in %.1f s", len(files), seconds)
    if not problems:
        return ""
    return f"{len(problems)} of {len(files)} images cannot be evaluated on, such as {problems[0]}"


def _has_file(record: Any) -> bool:
    """Whether the image of a record is read from its file."""
    in_memory = ("image", "image_bytes")
    return (
        isinstance(record, Mapping)
        and "file_name" in record
        and all(record.get(key) is None for key in in_memory)
    )

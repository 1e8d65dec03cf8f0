"""Tars of small image-text pairs."""

import io
import tarfile

import numpy as np
from PIL import Image


def encoded_image(value=0, size=8):
    """A grey png."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value % 256, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def tar_bytes(files):
    """A tar of (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(start, number):
    """Files of a shard; every shard has the same keys, as tools write them."""
    for i in range(number):
        yield f"{i:03d}.png", encoded_image(start + i)
        yield f"{i:03d}.txt", f"a dog number {start + i}".encode()


def captions(records):
    """The texts of records."""
    return [record["caption"].decode() for record in records]

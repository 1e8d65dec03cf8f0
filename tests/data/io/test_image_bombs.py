"""Images that claim to be, or unpack to, more than there is memory for end in a sentence."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from detclip2.data.io.image import read_image
from detclip2.utils.errors import UserError

HUGE = 60_000  # pixels a side: 3,600 megapixels


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def zeros(size):
    return zlib.compress(bytes(size), 9)


def saved(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def small(fmt):
    return bytearray(saved(Image.new("RGB", (8, 8)), fmt))


def jpeg():
    data = small("JPEG")
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def gif():
    data = small("GIF")
    data[6:10] = struct.pack("<HH", 65_000, 65_000)
    return bytes(data)


def bmp():
    data = small("BMP")
    data[18:26] = struct.pack("<ii", HUGE, HUGE)
    return bytes(data)


def tiff():
    """Width and height are the first two entries of the directory."""
    data = small("TIFF")
    (at,) = struct.unpack("<I", data[4:8])
    for entry in range(struct.unpack("<H", data[at : at + 2])[0]):
        start = at + 2 + 12 * entry
        if struct.unpack("<H", data[start : start + 2])[0] in (256, 257, 278):
            data[start + 2 : start + 12] = struct.pack("<HII", 4, 1, HUGE)
    return bytes(data)


def webp():
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + (2**24 - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ico():
    inside = png(HUGE, HUGE)
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


BOMBS = {
    "png": lambda: png(HUGE, HUGE),
    "png of the largest size": lambda: png(2**31 - 1, 2**31 - 1),
    "png text": lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zeros(100_000_000))),
    "png texts": lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zeros(1_000_000))] * 200),
    "png international text": lambda: png(
        8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(100_000_000))
    ),
    "jpeg": jpeg,
    "gif": gif,
    "bmp": bmp,
    "tiff": tiff,
    "webp": webp,
    "ico": ico,
}


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_in_a_sentence(kind):
    data, before = BOMBS[kind](), peak()
    assert len(data) < 500_000
    with pytest.raises(UserError, match=r"^bomb\b") as error:
        read_image(data, "bomb")
    assert peak() - before < 200_000_000
    assert len(str(error.value)) < 300


def test_a_profile_that_unpacks_to_much_is_not_unpacked_whole():
    before = peak()
    try:
        image = read_image(png(8, 8, chunk(b"iCCP", b"a\0\0" + zeros(300_000_000))))
        assert image.shape == (8, 8, 3)
    except UserError:
        pass  # Pillow either ignores the profile or refuses the image
    assert peak() - before < 200_000_000


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_the_first_is_decoded(fmt, monkeypatch):
    frames = [Image.new("L", (8, 8), 100 + n) for n in range(100)]
    data = saved(frames[0], fmt, save_all=True, append_images=frames[1:], lossless=True)
    plugin = Image.open(io.BytesIO(data))
    assert plugin.n_frames == 100
    seek = type(plugin).seek
    sought = []
    monkeypatch.setattr(
        type(plugin), "seek", lambda self, frame: (sought.append(frame), seek(self, frame))
    )
    assert np.array_equal(read_image(data), np.full((8, 8, 3), 100))
    assert set(sought) <= {0}


def test_a_tiff_whose_directories_are_a_ring():
    data = small("TIFF")
    (at,) = struct.unpack("<I", data[4:8])
    end = at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0]
    data[end : end + 4] = struct.pack("<I", at)
    assert np.array_equal(read_image(bytes(data)), np.zeros((8, 8, 3)))


def test_postscript_is_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: ran.append(args))
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(UserError, match="this EPS file is a program that draws, which is not run"):
        read_image(data, "drawing")
    assert not ran

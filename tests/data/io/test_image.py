import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from detclip2.data.io import image
from detclip2.data.io.image import Header, check_image, read_image
from detclip2.utils.errors import UserError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)


def encoded(image, fmt, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **kwargs)
    return buffer.getvalue()


def test_every_input_type_gives_the_same_image(pixels, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    sources = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        pixels,
        pixels.astype(np.int64),
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.float32) / 255,
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1).double() / 255,
        np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    ]
    for source in sources:
        image = read_image(source)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, pixels)


def test_the_result_does_not_share_memory_with_the_input(pixels):
    image = read_image(pixels)
    image[:] = 0
    assert pixels.any()


def test_greyscale_becomes_three_equal_channels():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = np.dstack([grey] * 3)
    wide = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 99), "PNG")
    for source in [
        grey,
        grey[:, :, None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
        Image.fromarray(grey),
        encoded(Image.fromarray(grey), "PNG"),
        wide,
        Image.fromarray(grey.astype(np.int32) * 256 + 99),  # mode I
        Image.fromarray(grey.astype(np.float32) / 255),  # mode F
    ]:
        np.testing.assert_array_equal(read_image(source), expected)
    assert read_image(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    black_and_white = Image.fromarray(np.array([[255, 0]], np.uint8)).convert("1")
    assert read_image(encoded(black_and_white, "PNG")).tolist() == [[[255] * 3, [0] * 3]]


def test_palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    for fmt in ("PNG", "GIF"):
        assert read_image(encoded(image, fmt)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparency_is_composed_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]
    assert read_image(rgba).tolist() == expected
    assert read_image(encoded(Image.fromarray(rgba), "PNG")).tolist() == expected
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    data = encoded(palette, "PNG", transparency=1)
    assert read_image(data).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    data = encoded(Image.fromarray(rgba[:, :, :3]), "PNG", transparency=(10, 20, 30))
    assert read_image(data)[0, 0].tolist() == [255, 255, 255]
    grey_alpha = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA")
    assert read_image(encoded(grey_alpha, "PNG")).tolist() == [[[40] * 3, [255] * 3]]


def test_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    data = encoded(red, "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(read_image(data)[8, 8], (200, 30, 40), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(pixels, orientation):
    # For each value of the EXIF tag, the operation that stores an upright image that way.
    upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }[orientation](pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(data), upright)
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), upright)


def test_damaged_exif_is_ignored(pixels):
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\x00\x00" + b"MM\x00*\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read_image(data), pixels)


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(fmt):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert (read_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_truncated_file_is_refused_or_complete(fmt, options):
    noise = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), fmt, **options)
    whole = read_image(data)
    refused = 0
    for length in np.linspace(1, len(data) - 1, 25).astype(int):
        try:
            np.testing.assert_array_equal(read_image(data[:length]), whole)
        except UserError:
            refused += 1
    assert refused >= 20


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_flipped_bytes_raise_only_the_documented_error(fmt):
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    data = np.frombuffer(encoded(Image.fromarray(noise), fmt), np.uint8)
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.integers(len(data), size=4)] = rng.integers(256, size=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_image(damaged.tobytes()).shape[2] == 3
            except UserError:
                continue  # any other exception fails the test


def test_files_that_are_not_images_are_named(tmp_path):
    cases = {
        "missing.jpg": "does not exist",
        "folder": "folder",
        "empty.png": "empty",
        "notes.txt": "not an image",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("these are notes")
    for name, reason in cases.items():
        with pytest.raises(UserError, match=reason) as error:
            read_image(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_image("a\0b.jpg")
    with pytest.raises(UserError, match="record 7: this image is empty"):
        read_image(b"", name="record 7")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "nothing to see"),
        (np.full((8, 8, 3), 200.0), "outside 0..1"),
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), 300), "300"),
        (np.full((8, 8, 3), -1), "-1"),
        (np.full((8, 8, 3), "x"), "dtype"),
        (torch.zeros(8, 8, 3), r"\(3, H, W\)"),
        (torch.zeros(2, 3, 8, 8), r"list\(batch\)"),
        (Image.fromarray(np.full((2, 2), 70_000, np.int32)), "70000"),
        (None, "NoneType"),
        ([1, 2], "list"),
    ],
)
def test_wrong_pixels_are_refused(source, reason):
    with pytest.raises(UserError, match=reason):
        read_image(source)


def test_one_pixel():
    assert read_image(encoded(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


def test_pillows_own_limit_is_not_applied_and_not_changed(pixels, monkeypatch):
    data = encoded(Image.fromarray(pixels), "PNG")
    for limit in (300, 10):  # 408 pixels: above the first Pillow warns, above twice it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(read_image(data), pixels)
        assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "ICO"])
def test_too_many_pixels_are_refused_before_decoding(monkeypatch, tmp_path, format_name):
    assert image.MAX_PIXELS > 100
    path = tmp_path / "ten"
    path.write_bytes(encoded(Image.new("RGB", (16, 16)), format_name))
    assert read_image(path, max_pixels=256).shape == (16, 16, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for source in (path, path.read_bytes()):
        with pytest.raises(UserError, match=r"the limit is 0\.0001 megapixels"):
            read_image(source, max_pixels=100)


def test_the_header_of_a_turned_jpeg_has_the_size_of_a_viewer(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert check_image(path) == Header(size=(20, 40), stored=(40, 20))
    assert read_image(path).shape == (40, 20, 3)


@pytest.mark.parametrize(("most", "scale"), [(255, 1), (256, 256)])
def test_integers_of_32_bits_in_a_tiff_have_8_or_16(tmp_path, most, scale):
    values = np.array([[0, 7, most]], np.int32)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    assert read_image(path)[0, :, 0].tolist() == (values[0] // scale).tolist()

"""One content in many formats is the same uint8 RGB array wherever images are read."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf
from PIL import ExifTags, Image, UnidentifiedImageError

from detclip2.config import get_config
from detclip2.data.datasets.detection import detection_set
from detclip2.data.io.image import check_image, read_image
from detclip2.data.mappers import DetectionMapper, EvaluationMapper
from detclip2.finetuning.coco_check import read_own_data
from detclip2.inference.explain import read_image as read_for_explanation
from detclip2.inference.predictor import read_image as read_for_prediction
from detclip2.utils.errors import UserError
from detclip2.utils.moved_targets import with_present_names
from detclip2.visualization.annotate import read_image as read_for_drawing

HEIGHT, WIDTH = 24, 32
GREY = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
HALF = np.where(GREY > 127, 255, 0).astype(np.uint8)
UPRIGHT = ExifTags.Base.Orientation


def of_grey(values):
    return np.repeat(values[:, :, None], 3, axis=2)


def save(values, mode=None, **options):
    """A writer of an array as an image of a mode."""

    def write(path):
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def raw(mode, values):
    """A writer of a mode that `Image.fromarray` does not choose."""
    return lambda path: Image.frombytes(mode, (WIDTH, HEIGHT), values.tobytes()).save(path)


def transparent_palette(path):
    image = Image.fromarray(GREY // 128, "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path, transparency=0)


def animated(path):
    frames = [Image.fromarray(frame) for frame in (COLOUR, COLOUR[::-1].copy())]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)


def turned(path):
    exif = Image.Exif()
    exif[UPRIGHT] = 6  # a viewer turns it clockwise by 90 degrees
    Image.fromarray(np.rot90(COLOUR).copy()).save(path, exif=exif)


def on_white(colour, alpha):
    share = alpha[:, :, None] / 255
    return colour * share + 255 * (1 - share)


ALPHA = GREY[:, ::-1].copy()
PALETTE = np.where(GREY[:, :, None] < 128, 255, np.array([200, 100, 50]))
DEEP = GREY.astype(np.uint16) * 257  # 255 becomes 65535

# name -> (writer, the array that is read, largest difference)
FORMATS = {
    "8 bits.png": (save(COLOUR), COLOUR, 0),
    "8 bits grey.png": (save(GREY), of_grey(GREY), 0),
    "16 bits grey.png": (save(DEEP), of_grey(GREY), 0),
    "16 bits grey.tif": (save(DEEP), of_grey(GREY), 0),
    "16 bits big endian.tif": (raw("I;16B", DEEP.astype(">u2")), of_grey(GREY), 0),
    "16 bits colour.png": (
        lambda path: cv2.imwrite(str(path), COLOUR[:, :, ::-1].astype(np.uint16) * 257),
        COLOUR,
        0,
    ),
    "16 bits transparent.png": (
        lambda path: cv2.imwrite(
            str(path), np.dstack([COLOUR[:, :, ::-1], ALPHA]).astype(np.uint16) * 257
        ),
        on_white(COLOUR, ALPHA),
        1,
    ),
    "32 bits.tif": (save(DEEP.astype(np.int32)), of_grey(GREY), 0),
    "float.tif": (save((GREY / 255).astype(np.float32)), of_grey(GREY), 0),
    "opaque.png": (save(COLOUR, "RGBA"), COLOUR, 0),
    "transparent.png": (save(np.dstack([COLOUR, ALPHA])), on_white(COLOUR, ALPHA), 1),
    "transparent.webp": (
        save(np.dstack([COLOUR, ALPHA]), lossless=True, exact=True), on_white(COLOUR, ALPHA), 1,
    ),
    "transparent grey.png": (
        raw("LA", np.dstack([GREY, ALPHA])), on_white(of_grey(GREY), ALPHA), 1,
    ),
    "transparent palette.png": (transparent_palette, PALETTE, 0),
    "transparent palette.gif": (transparent_palette, PALETTE, 0),
    "cmyk.tif": (
        raw("CMYK", np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), 255 - GREY])),
        of_grey(GREY),
        0,
    ),
    "1 bit.png": (save(HALF, "1"), of_grey(HALF), 0),
    "1 bit.tif": (save(HALF, "1"), of_grey(HALF), 0),
    "animated.png": (animated, COLOUR, 0),
    "animated.webp": (animated, COLOUR, 0),
    "turned.png": (turned, COLOUR, 0),
    "turned.tif": (turned, COLOUR, 0),
    "av1.avif": (save(of_grey(GREY // 8 * 4), quality=100), of_grey(GREY // 8 * 4), 6),
}  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Name of a way -> the array that it gives of each of `FORMATS`."""
    folder = tmp_path_factory.mktemp("formats")
    for name, (write, *_) in FORMATS.items():
        write(folder / name)
    content = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
                   for i, name in enumerate(FORMATS, 1)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 8, 8]}
                        for i in range(1, 1 + len(FORMATS))],
        "categories": [{"id": 1, "name": "thing"}],
    }  # fmt: skip
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    records = detection_set("test_one_decoder", str(path), str(folder))
    own = read_own_data(path, folder)
    assert not [kind for kind in own.findings if kind.startswith("image")]
    checked = [str(folder / image["file_name"]) for image in own.images]
    shipped = get_config("data/test_mapper.py").test_mapper
    shipped.augmentations = []
    train, test = DetectionMapper(["thing"]), instantiate(shipped)
    assert isinstance(test, EvaluationMapper)
    as_array = lambda one: one["image"].permute(1, 2, 0).numpy()  # noqa: E731
    in_memory = [
        {**record, "image_bytes": Path(record["file_name"]).read_bytes()} for record in records
    ]
    found = {
        "training": [as_array(train(record, np.random.default_rng(0))) for record in records],
        "evaluation": [as_array(test(record)) for record in records],
        "prediction": [read_for_prediction(record["file_name"]) for record in records],
        "fine-tuning": [read_image(file) for file in checked],
        "bytes": [as_array(train(one, np.random.default_rng(0))) for one in in_memory],
    }
    return {way: dict(zip(FORMATS, arrays, strict=True)) for way, arrays in found.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_every_way_reads_the_same_pixels(read, name):
    _, expected, tolerance = FORMATS[name]
    for way, arrays in read.items():
        assert arrays[name].dtype == np.uint8
        np.testing.assert_allclose(
            arrays[name].astype(float), expected, atol=tolerance, err_msg=way
        )
        np.testing.assert_array_equal(arrays[name], read["prediction"][name], err_msg=way)


def test_there_is_one_function():
    assert read_for_prediction is read_for_explanation is read_for_drawing is read_image


@pytest.mark.parametrize("name", FORMATS)
def test_the_check_of_a_file_agrees_with_its_decoder(tmp_path, name):
    """A file that is cut anywhere after its header is found without reading it whole."""
    path = tmp_path / name
    FORMATS[name][0](path)
    header = check_image(path)
    assert header.size == (WIDTH, HEIGHT)
    assert header.stored == ((HEIGHT, WIDTH) if name.startswith("turned") else (WIDTH, HEIGHT))
    whole = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        is_read = is_checked = True
        try:
            read_image(path)
        except Exception:
            is_read = False
        try:
            check_image(path)
        except Exception:
            is_checked = False
        assert is_checked <= is_read  # a part without pixels may be missing


def test_the_mapper_of_a_former_config_is_replaced():
    former = OmegaConf.create({"_target_": "detectron2.data.DatasetMapper", "is_train": False,
                               "augmentations": [], "image_format": "RGB"})  # fmt: skip
    present = with_present_names(OmegaConf.to_container(former))
    assert isinstance(instantiate(OmegaConf.create(present)), EvaluationMapper)
    training = {"_target_": "detectron2.data.DatasetMapper", "is_train": True}
    assert with_present_names(training) == training


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + 99 * b"\0"


def test_a_format_that_needs_a_library_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"a.heic: this is a HEIC .*pip install 'detclip2\[heif\]'"):
        read_image(HEIC, "a.heic")
    monkeypatch.setattr(Image, "open", Mock(side_effect=UnidentifiedImageError))
    with pytest.raises(UserError, match=r"a\.avif: this is an AVIF image; .*11\.3"):
        read_image(HEIC.replace(b"heic", b"avif"), "a.avif")


def test_heic_is_read_if_its_library_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(of_grey(GREY // 8 * 4))).save(
        tmp_path / "a.heic", quality=-1
    )
    path = tmp_path / "a.heic"
    np.testing.assert_allclose(read_image(path).astype(int), of_grey(GREY // 8 * 4), atol=6)
    assert check_image(path).size == (WIDTH, HEIGHT)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"HEIC|truncated or damaged"):
        check_image(path)

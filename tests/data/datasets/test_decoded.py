import numpy as np
import pytest
from PIL import Image

from detclip2.data.datasets.decoded import DecodedImages
from detclip2.data.sample import SkipSample


def test_each_image_is_read_once(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    first, second = ({"file_name": str(path), "image_id": i} for i in range(2))
    records = DecodedImages([first, second])
    assert len(records) == 2
    assert np.array_equal(records[0]["image"], pixels)
    path.unlink()
    assert np.array_equal(records[1]["image"], pixels)
    assert records[1]["image_id"] == 1
    assert "image" not in first


def test_an_unreadable_image_is_skipped_by_the_mapper(tmp_path):
    records = DecodedImages([{"file_name": str(tmp_path / "missing.png")}])
    with pytest.raises(SkipSample, match=r"missing\.png"):
        records[0]

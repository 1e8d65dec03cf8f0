import io

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    return str(path)


def test_formats(png):
    assert np.array_equal(utils.read_image(png), RGB)
    assert np.array_equal(utils.read_image(png, "RGB"), RGB)
    bgr = utils.read_image(png, "BGR")
    assert np.array_equal(bgr, RGB[:, :, ::-1])
    grey = utils.read_image(png, "L")
    assert np.array_equal(grey[:, :, 0], np.asarray(Image.fromarray(RGB).convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, orientation):
    # The upright image: rows from row0 of the tag, in the EXIF standard.
    corner = np.zeros((8, 16), dtype=np.uint8)
    corner[:4, :8] = 255  # bright where the scene's top left is
    stored = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.T,
        6: np.rot90(corner, 1),
        7: corner[::-1, ::-1].T,
        8: np.rot90(corner, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(utils.read_image(str(tmp_path / "a.png"), "L")[:, :, 0], corner)


def test_broken_exif_does_not_matter(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "jpeg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert utils.read_image(str(tmp_path / "a.jpg"), "RGB").shape == (6, 8, 3)


def test_image_size():
    record = {}
    utils.check_image_size(record, RGB)
    assert record == {"width": 8, "height": 6}
    utils.check_image_size(record, RGB)
    with pytest.raises(utils.SizeMismatchError, match=r"some\.jpg"):
        utils.check_image_size({"width": 6, "height": 8, "file_name": "some.jpg"}, RGB)
    assert issubclass(utils.SizeMismatchError, ValueError)


def test_annotations_follow_the_image():
    annotation = {
        "bbox": [10, 20, 30, 300],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 3,
        "segmentation": [[10, 20, 40, 20, 40, 60]],
    }
    transforms = [T.HFlipTransform(100), T.ResizeTransform(200, 100, 100, 50)]
    moved = utils.transform_instance_annotations(annotation, transforms, (100, 50))
    assert moved is annotation
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS
    assert np.allclose(moved["bbox"], [30, 10, 45, 100])  # the box reached below the image
    assert np.allclose(moved["segmentation"], [[45, 10, 30, 10, 30, 30]])


def test_run_length_masks_follow_the_image():
    import pycocotools.mask as mask_util

    mask = np.zeros((20, 10), dtype=np.uint8)
    mask[3:9, 1:4] = 1
    annotation = {
        "bbox": [1, 3, 4, 9],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": mask_util.encode(np.asfortranarray(mask)),
    }
    flip = T.TransformList([T.HFlipTransform(10)])
    moved = utils.transform_instance_annotations(annotation, flip, (20, 10))
    assert np.array_equal(moved["segmentation"], mask[:, ::-1])
    with pytest.raises(ValueError, match="egmentation"):
        utils.transform_instance_annotations({**annotation, "segmentation": 1}, flip, (20, 10))


def test_annotations_to_instances():
    annotations = [
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 5},
        {"bbox": np.array([1.5, 2, 3, 4]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
    ]
    instances = utils.annotations_to_instances(annotations, (20, 10))
    assert instances.image_size == (20, 10)
    assert torch.equal(instances.gt_boxes.tensor, torch.tensor([[1, 2, 4, 6], [1.5, 2, 3, 4]]))
    assert torch.equal(instances.gt_classes, torch.tensor([5, 0]))
    empty = utils.annotations_to_instances([], (20, 10))
    assert empty.gt_boxes.tensor.shape == (0, 4)
    assert empty.gt_classes.dtype == torch.int64


def test_empty_boxes_are_filtered():
    instances = Instances((20, 10))
    instances.gt_boxes = Boxes(torch.tensor([[1.0, 1, 5, 5], [1, 1, 1, 5], [1, 1, 2, 1.001]]))
    instances.gt_classes = torch.arange(3)
    assert utils.filter_empty_instances(instances).gt_classes.tolist() == [0, 2]
    kept, mask = utils.filter_empty_instances(instances, box_threshold=0.5, return_mask=True)
    assert kept.gt_classes.tolist() == [0]
    assert mask.tolist() == [True, False, False]

"""Boxes, Instances, ImageList."""

import copy
import math

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    pairwise_iou,
)

ABS = {"XYXY": BoxMode.XYXY_ABS, "XYWH": BoxMode.XYWH_ABS, "XYWHA": BoxMode.XYWHA_ABS}


def random_boxes(n, seed=0):
    """(n, 4) XYXY with area, in [0, 100]."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 49], dim=1)


# BoxMode


def test_modes_equal_the_numbers_in_json_files():
    assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]
    assert BoxMode(1) is BoxMode.XYWH_ABS


@pytest.mark.parametrize(
    ("source", "target", "box", "expected"),
    [
        ("XYXY", "XYWH", [5, 6, 15, 26], [5, 6, 10, 20]),
        ("XYWH", "XYXY", [5, 6, 10, 20], [5, 6, 15, 26]),
        ("XYWH", "XYWHA", [10, 20, 4, 6], [12, 23, 4, 6, 0]),
        ("XYWHA", "XYXY", [50, 50, 30, 20, 0], [35, 40, 65, 60]),
        ("XYWHA", "XYXY", [50, 50, 30, 20, 90], [40, 35, 60, 65]),
        ("XYWHA", "XYXY", [1, 1, math.sqrt(2), math.sqrt(2), -45], [0, 0, 2, 2]),
        ("XYXY", "XYXY", [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_convert_in_every_type(source, target, box, expected):
    for kind in (list, tuple):
        floats = kind(float(x) for x in box)
        converted = BoxMode.convert(floats, ABS[source], ABS[target])
        assert type(converted) is kind
        assert converted == pytest.approx(kind(expected), abs=1e-5)
    for dtype in (np.float32, np.float64):
        array = np.asarray([box, box], dtype=dtype)
        before = array.copy()
        converted = BoxMode.convert(array, ABS[source], ABS[target])
        assert (converted.dtype, converted.shape) == (dtype, (2, len(expected)))
        np.testing.assert_allclose(converted, [expected] * 2, atol=1e-5)
        np.testing.assert_array_equal(array, before)
        tensor = BoxMode.convert(torch.from_numpy(array), ABS[source], ABS[target])
        torch.testing.assert_close(tensor, torch.from_numpy(converted))


def test_convert_integers_stay_integers():
    assert BoxMode.convert([1, 2, 3, 4], 0, 1) == [1, 2, 2, 2]
    assert BoxMode.convert(np.array([[1, 2, 3, 4]]), 0, 1).dtype == np.int64


def test_convert_no_boxes():
    assert BoxMode.convert(torch.zeros(0, 4), 0, 1).shape == (0, 4)


def test_convert_refuses_unknown_formats():
    with pytest.raises(AssertionError):
        BoxMode.convert([0, 0, 1], 0, 1)
    with pytest.raises(AssertionError, match="Relative"):
        BoxMode.convert([0.0, 0, 1, 1], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)
    with pytest.raises(NotImplementedError):
        BoxMode.convert([0.0, 0, 1, 1], BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS)


# Boxes


def test_boxes_of_lists_arrays_and_nothing():
    assert Boxes([[1, 2, 3, 4]]).tensor.dtype == torch.float32
    assert Boxes(torch.ones(2, 4, dtype=torch.float64)).tensor.dtype == torch.float32
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    assert len(Boxes([])) == 0
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(3, 5))
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(4))


def test_area_centers_nonempty():
    boxes = Boxes([[0, 0, 2, 3], [1, 1, 1, 5], [4, 4, 3, 6]])
    assert boxes.area().tolist() == [6, 0, -2]
    assert boxes.get_centers().tolist() == [[1, 1.5], [1, 3], [3.5, 5]]
    assert boxes.nonempty().tolist() == [True, False, False]
    assert boxes.nonempty(threshold=2.5).tolist() == [False] * 3


def test_clip_is_height_width_and_in_place():
    boxes = Boxes([[-5, -6, 50, 60], [1, 2, 3, 4]])
    assert boxes.clip((20, 30)) is None
    assert boxes.tensor.tolist() == [[0, 0, 30, 20], [1, 2, 3, 4]]
    with pytest.raises(AssertionError, match="NaN"):
        Boxes([[0, 0, math.nan, 1]]).clip((1, 1))


def test_inside_box():
    boxes = Boxes([[0, 0, 29, 19], [0, 0, 30, 19], [-1, 0, 5, 5], [0, 0, 5, 21]])
    assert boxes.inside_box((20, 30)).tolist() == [True, False, False, False]
    assert boxes.inside_box((20, 30), boundary_threshold=2).tolist() == [True] * 4


def test_scale_is_in_place():
    boxes = Boxes([[1, 2, 3, 4]])
    boxes.scale(2, 10)
    assert boxes.tensor.tolist() == [[2, 20, 6, 40]]


def test_indexing():
    tensor = random_boxes(5)
    boxes = Boxes(tensor)
    assert torch.equal(boxes[1].tensor, tensor[1:2])
    assert torch.equal(boxes[1:3].tensor, tensor[1:3])
    assert torch.equal(boxes[tensor[:, 0] > 20].tensor, tensor[tensor[:, 0] > 20])
    assert torch.equal(boxes[torch.tensor([3, 3])].tensor, tensor[[3, 3]])
    assert [box.shape for box in boxes] == [(4,)] * 5
    with pytest.raises(AssertionError):
        boxes[torch.tensor(1)]


def test_cat_and_clone_are_copies():
    boxes = Boxes(random_boxes(2))
    for copied in (boxes.clone(), Boxes.cat([boxes])):
        copied.tensor.zero_()
    assert boxes.tensor.abs().sum() > 0
    assert len(Boxes.cat([])) == 0
    assert len(Boxes.cat([boxes, Boxes([]), boxes])) == 4


def test_to_and_device():
    assert Boxes([[0, 0, 1, 1]]).to("meta").device == torch.device("meta")


def slow_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if shared > 0 else 0.0


def test_pairwise_iou():
    first, second = random_boxes(6, seed=1), random_boxes(7, seed=2)
    first[0] = torch.tensor([3.0, 3, 3, 3])  # no area, at the same place
    second[0] = torch.tensor([3.0, 3, 3, 3])
    expected = [[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(pairwise_iou(Boxes(first), Boxes(second)), torch.tensor(expected))
    assert pairwise_iou(Boxes([]), Boxes(second)).shape == (0, 7)


# Instances


def some_instances():
    return Instances(
        (10, 20), gt_boxes=Boxes(random_boxes(3)), scores=torch.tensor([1.0, 2, 3]), names=["a"] * 3
    )


def test_fields():
    instances = some_instances()
    assert len(instances) == 3
    assert instances.image_size == (10, 20)
    assert instances.has("scores")
    assert "gt_boxes" in instances.get_fields()
    instances.classes = torch.arange(3)
    assert instances.get("classes") is instances.classes
    instances.remove("classes")
    with pytest.raises(AttributeError, match="classes"):
        instances.classes  # noqa: B018
    with pytest.raises(AssertionError):
        instances.scores = torch.zeros(4)


def test_no_fields():
    empty = Instances((1, 1))
    with pytest.raises(NotImplementedError):
        len(empty)
    with pytest.raises(NotImplementedError):
        iter(some_instances())


def test_instances_indexing():
    instances = some_instances()
    assert [instances[i].scores.item() for i in (0, 2, -1, -3)] == [1, 3, 3, 1]
    assert instances[1:].names == ["a", "a"]
    instances.remove("names")  # a list cannot be indexed by a mask
    chosen = instances[torch.tensor([True, False, True])]
    assert chosen.scores.tolist() == [1, 3]
    assert torch.equal(chosen.gt_boxes.tensor, instances.gt_boxes.tensor[[0, 2]])
    for index in (3, -4):
        with pytest.raises(IndexError):
            instances[index]


def test_instances_cat():
    one = some_instances()
    both = Instances.cat([one, one[1:]])
    assert len(both) == 5
    assert both.names == ["a"] * 5
    assert both.scores.tolist() == [1, 2, 3, 2, 3]
    assert both.gt_boxes.tensor.shape == (5, 4)
    assert Instances.cat([one]) is one
    with pytest.raises(AssertionError):
        Instances.cat([one, Instances((9, 9), scores=torch.zeros(1))])
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(ValueError, match="Unsupported type"):
        Instances.cat([Instances((1, 1), x="ab"), Instances((1, 1), x="ab")])


def test_instances_to_moves_tensors():
    moved = some_instances().to("meta")
    assert moved.scores.device.type == "meta"
    assert moved.gt_boxes.device.type == "meta"
    assert moved.names == ["a"] * 3


def test_instances_can_be_copied_and_printed():
    copied = copy.deepcopy(some_instances())
    assert copied.scores.tolist() == [1, 2, 3]
    assert "num_instances=3, image_height=10, image_width=20" in str(copied)


# ImageList


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 9)),
        ({"size_divisibility": 4}, (8, 12)),
        ({"padding_constraints": {"size_divisibility": 5}}, (10, 10)),
        ({"size_divisibility": 4, "padding_constraints": {"square_size": 13}}, (16, 16)),
        ({"padding_constraints": {"square_size": 16}}, (16, 16)),
        ({"size_divisibility": 1, "padding_constraints": {"square_size": 0}}, (8, 9)),
    ],
)
def test_padding(options, size):
    images = [torch.rand(3, 8, 5), torch.rand(3, 4, 9)]
    batch = ImageList.from_tensors(images, pad_value=7.0, **options)
    assert batch.tensor.shape == (2, 3, *size)
    assert batch.image_sizes == [(8, 5), (4, 9)]
    assert len(batch) == 2
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
    padding = batch.tensor[0].clone()
    padding[:, :8, :5] = 7
    assert (padding == 7).all()


def test_one_image_and_other_types():
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    batch = ImageList.from_tensors((image,), size_divisibility=8)
    assert batch.tensor.shape == (1, 8, 8)
    assert batch.tensor.dtype == torch.uint8
    assert batch.to(torch.float32).tensor.dtype == torch.float32
    assert batch.device == torch.device("cpu")


def test_image_list_errors():
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])


def test_the_batch_is_not_the_image():
    image = torch.zeros(3, 4, 4)
    ImageList.from_tensors([image]).tensor.add_(1)
    ImageList.from_tensors([image, image]).tensor.add_(1)
    assert image.sum() == 0


# BitMasks


def three_masks():
    """Masks of no pixel, one pixel and all pixels."""
    masks = torch.zeros(3, 4, 5)
    masks[1, 2, 3] = 1
    masks[2] = 7
    return BitMasks(masks)


def test_bit_masks_are_boolean():
    masks = three_masks()
    assert masks.tensor.dtype == torch.bool
    assert masks.tensor.flatten(1).sum(dim=1).tolist() == [0, 1, 20]
    assert len(masks) == 3
    assert tuple(masks.image_size) == (4, 5)
    assert masks.nonempty().tolist() == [False, True, True]
    assert masks.device == masks.to("cpu").device == torch.device("cpu")
    assert torch.equal(BitMasks(masks.tensor.numpy()).tensor, masks.tensor)


@pytest.mark.parametrize(
    ("item", "chosen"),
    [
        (1, [1]),
        (slice(1, 3), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
    ],
)
def test_bit_masks_are_chosen_like_boxes(item, chosen):
    masks = three_masks()
    assert torch.equal(masks[item].tensor, masks.tensor[chosen])


def test_bit_masks_are_a_field_of_instances():
    one = Instances((4, 5), gt_masks=three_masks(), gt_classes=torch.arange(3))
    both = Instances.cat([one, one[one.gt_masks.nonempty()]]).to("cpu")
    assert both.gt_classes.tolist() == [0, 1, 2, 1, 2]
    assert both.gt_masks.tensor.flatten(1).sum(dim=1).tolist() == [0, 1, 20, 1, 20]

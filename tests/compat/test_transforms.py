"""Augmentations against PIL, torch and closed forms."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((100, 1000), 800, 1333, (133, 1333)),
        ((500, 500), 333, 1333, (333, 333)),
        ((1, 5), 3, 8, (2, 8)),
    ],
)
def test_shortest_edge_output_shape(size, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, short, longest) == expected
    image = np.zeros(size, dtype=np.uint8)
    transform = T.ResizeShortestEdge(short, longest).get_transform(image)
    assert transform.apply_image(image).shape == expected


def test_shortest_edge_draws_its_length():
    def lengths(augmentation):
        return {augmentation.get_transform(IMAGE).new_h for _ in range(100)}

    assert lengths(T.ResizeShortestEdge([50, 52])) == {50, 51, 52}
    assert lengths(T.ResizeShortestEdge([50, 60, 70], sample_style="choice")) == {50, 60, 70}
    assert isinstance(T.ResizeShortestEdge(0).get_transform(IMAGE), T.NoOpTransform)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([50, 60, 70])
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([50, 60], sample_style="gaussian")


def test_the_seed_determines_the_transform():
    def draw():
        np.random.seed(3)
        inputs = T.AugInput(IMAGE)
        inputs.apply_augmentations([T.ResizeShortestEdge([20, 60]), T.RandomFlip()])
        return inputs.image

    assert np.array_equal(draw(), draw())


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3)])
def test_resize_of_uint8_equals_pil(shape):
    image = np.resize(IMAGE, shape)
    resized = T.ResizeTransform(30, 40, 45, 20).apply_image(image)
    expected = np.asarray(Image.fromarray(image.squeeze()).resize((20, 45), Image.BILINEAR))
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, expected.reshape(45, 20, *shape[2:]))


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3), (30, 40, 3, 2)])
def test_resize_of_floats_equals_torch(shape):
    image = np.random.default_rng(1).random(shape)[:, ::-1]
    resized = T.ResizeTransform(30, 40, 45, 20).apply_image(image)
    channels = torch.from_numpy(image.copy()).reshape(30, 40, -1).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(channels, (45, 20), mode="bilinear")
    assert np.allclose(resized, expected[0].permute(1, 2, 0).reshape(45, 20, *shape[2:]).numpy())


def test_resize_of_boxes_and_masks():
    transform = T.ResizeTransform(30, 40, 60, 20)
    assert np.allclose(transform.apply_box(np.array([[4.0, 3.0, 20.0, 9.0]])), [[2, 6, 10, 18]])
    labels = transform.apply_segmentation((IMAGE[..., 0] > 99).astype(np.uint8) * 7)
    assert set(np.unique(labels)) == {0, 7}
    back = transform.inverse()
    assert (back.h, back.w, back.new_h, back.new_w) == (60, 20, 30, 40)
    with pytest.raises(AssertionError):
        transform.apply_image(IMAGE[1:])


def test_flips():
    horizontal = T.RandomFlip(1.0).get_transform(IMAGE)
    assert np.array_equal(horizontal.apply_image(IMAGE), IMAGE[:, ::-1])
    assert np.allclose(horizontal.apply_box(np.array([[1.0, 2.0, 10.0, 20.0]])), [[30, 2, 39, 20]])
    vertical = T.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(IMAGE)
    assert np.array_equal(vertical.apply_image(IMAGE), IMAGE[::-1])
    assert isinstance(T.RandomFlip(0.0).get_transform(IMAGE), T.NoOpTransform)
    drawn = [isinstance(T.RandomFlip().get_transform(IMAGE), T.HFlipTransform) for _ in range(400)]
    assert 120 < sum(drawn) < 280
    for directions in ({"vertical": True}, {"horizontal": False}):
        with pytest.raises(ValueError):  # noqa: PT011
            T.RandomFlip(**directions)


def test_augmentations_apply_in_order():
    boxes = np.array([[0.0, 0.0, 20.0, 15.0]])
    labels = (IMAGE[..., 0] > 99).astype(np.uint8)
    inputs = T.AugInput(IMAGE, boxes=boxes, sem_seg=labels)
    transforms = T.AugmentationList([T.Resize((60, 80)), T.HFlipTransform(80), T.Resize(50)])(
        inputs
    )
    assert isinstance(transforms, T.TransformList)
    assert inputs.image.shape == (50, 50, 3)
    assert inputs.sem_seg.shape == (50, 50)
    assert np.allclose(inputs.boxes, [[25, 0, 50, 25]])
    assert np.allclose(transforms.apply_box(np.array([[0.0, 0.0, 20.0, 15.0]])), inputs.boxes)
    assert np.array_equal(transforms.apply_image(IMAGE), inputs.image)


def test_own_augmentation_receives_named_arguments():
    class ToFirstBox(T.Augmentation):
        def get_transform(self, image, boxes):
            x0, y0, x1, y1 = boxes[0].astype(int)
            return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    class AnyName(T.Augmentation):
        def get_transform(self, any_name):
            return T.HFlipTransform(any_name.shape[1])

    inputs = T.AugInput(IMAGE, boxes=np.array([[5.0, 6.0, 25.0, 16.0]]))
    inputs.apply_augmentations([ToFirstBox(), AnyName()])
    assert np.array_equal(inputs.image, IMAGE[6:16, 5:25][:, ::-1])


def test_own_augmentation_that_cannot_work():
    class Unknown(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    class Anything(T.Augmentation):
        def get_transform(self, image, *rest):
            return T.NoOpTransform()

    class NoTransform(T.Augmentation):
        def get_transform(self, image):
            return image

    for augmentation, error in [
        (Unknown(), AttributeError),
        (Anything(), TypeError),
        (NoTransform(), AssertionError),
        (T.Augmentation(), Exception),
    ]:
        with pytest.raises(error):
            augmentation(T.AugInput(IMAGE))
    with pytest.raises(AssertionError):
        T.AugInput(torch.zeros(3, 3))
    with pytest.raises(AssertionError):
        T.AugmentationList(["flip"])


def test_augmentations_print_their_constructor_call():
    flip = T.RandomFlip(prob=0.25)
    assert str(flip) == "RandomFlip(prob=0.25)"
    assert str(T.RandomFlip()) == "RandomFlip()"
    assert repr(T.AugmentationList([flip, flip])) == f"AugmentationList[{flip}, {flip}]"


@pytest.mark.parametrize(
    ("crop_type", "crop_size", "heights", "widths"),
    [
        ("absolute", (20, 100), {20}, {40}),
        ("relative", (0.5, 0.25), {15}, {10}),
        ("relative_range", (0.5, 1.0), set(range(15, 31)), {40}),
        ("absolute_range", (10, 35), set(range(10, 31)), set(range(10, 36))),
    ],
)
def test_crops(crop_type, crop_size, heights, widths):
    augmentation = T.RandomCrop(crop_type, crop_size)
    for _ in range(50):
        crop = augmentation.get_transform(IMAGE)
        found = crop.apply_image(IMAGE)
        assert found.shape[0] in heights
        assert found.shape[1] in widths
        assert np.array_equal(found, IMAGE[crop.y0 : crop.y0 + crop.h, crop.x0 : crop.x0 + crop.w])

"""Masks are transformed with their image."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from pycocotools import mask as coco_masks

from detclip2.data.io.masks import encode_mask, outlines_of, polygons_of, rle_of, transform_mask

HEIGHT, WIDTH = 40, 60


def rectangle(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def rle(mask):
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def runs(mask):
    """Run lengths by a slow loop, column by column."""
    lengths, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return {"size": list(mask.shape), "counts": lengths}


def inside(x1, y1, x2, y2, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


BOX = (10, 5, 30, 25)
WAYS = {"polygon": rectangle(*BOX), "rle": rle(inside(*BOX)), "runs": runs(inside(*BOX))}


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_moves_with_its_image(way):
    size, twice = (HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)
    as_it_is = transform_mask(WAYS[way], T.TransformList([T.NoOpTransform()]), size, size)
    np.testing.assert_array_equal(as_it_is, inside(*BOX))
    assert as_it_is.dtype == bool
    moves = T.TransformList([T.HFlipTransform(WIDTH), T.ResizeTransform(*size, *twice)])
    expected = inside(2 * (WIDTH - 30), 10, 2 * (WIDTH - 10), 50, *twice)
    np.testing.assert_array_equal(transform_mask(WAYS[way], moves, size, twice), expected)
    crop = T.TransformList([T.CropTransform(20, 0, 20, HEIGHT)])
    cut = transform_mask(WAYS[way], crop, size, (HEIGHT, 20))
    np.testing.assert_array_equal(cut, inside(0, 5, 10, 25, HEIGHT, 20))


def test_several_polygons_are_one_mask():
    both = rectangle(0, 0, 4, 4) + rectangle(10, 10, 14, 14) + [[1, 2]]
    size = (HEIGHT, WIDTH)
    mask = transform_mask(both, T.TransformList([T.NoOpTransform()]), size, size)
    np.testing.assert_array_equal(mask, inside(0, 0, 4, 4) | inside(10, 10, 14, 14))
    assert coco_masks.area(rle_of(both, size)) == 32


def test_a_polygon_far_outside_takes_no_memory():
    size = (HEIGHT, WIDTH)
    far = rectangle(-1e15, -1e15, 1e15, 1e15)
    assert transform_mask(far, T.TransformList([T.NoOpTransform()]), size, size).all()


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 2]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [["a", 2, 3, 4, 5, 6]],
        [None],
        [3.0, 4.0],
        {},
        {"size": [1, 1], "counts": "x"},
        {"size": [HEIGHT, WIDTH]},
        {"size": None, "counts": []},
        *(
            {"size": [HEIGHT, WIDTH], "counts": counts}
            for counts in [
                [],
                [5],
                [HEIGHT * WIDTH + 1],
                [-1, HEIGHT * WIDTH + 1],
                [HEIGHT * WIDTH + 0.0],
                ["0", HEIGHT * WIDTH],
                [[0, HEIGHT * WIDTH]],
                None,
                3,
                "",
                "0",
                "x",
                "oooooo",
                "o" * 10**5,
                "\ud800",
                "\x00",
                "04",
            ]
        ),
        [[10**400, 0, 4, 0, 4, 4]],
        "polygon",
        3,
    ],
)
def test_invalid_masks(segmentation):
    transforms = T.TransformList([T.NoOpTransform()])
    with pytest.raises(ValueError, match=r"polygon|RLE"):
        transform_mask(segmentation, transforms, (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    if isinstance(segmentation, list):
        with pytest.raises(ValueError, match="polygon"):
            polygons_of(segmentation)


def test_runs_of_random_masks():
    """As pycocotools reads them, compressed or not."""
    generator = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):
        mask = generator.random((HEIGHT, WIDTH)) < share
        columns = mask.T.reshape(-1)
        changes = np.flatnonzero(np.diff(columns, prepend=False))
        runs = np.diff(changes, prepend=0, append=columns.size).tolist()
        for written in (rle(mask), {"size": [HEIGHT, WIDTH], "counts": runs}):
            read = rle_of(written, (HEIGHT, WIDTH))
            np.testing.assert_array_equal(coco_masks.decode(read).astype(bool), mask)


def test_masks_are_encoded_without_loss():
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    for one in (mask, mask[:, ::2], ~mask & mask):
        encoded = encode_mask(one)
        assert encoded == rle(one)
        np.testing.assert_array_equal(coco_masks.decode(rle_of(encoded, one.shape)), one)


def test_outlines_are_close_to_the_mask():
    """Their corners are cut by a quarter of a pixel; holes are filled, parts stay apart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ring = ((x - 20) ** 2 + (y - 20) ** 2 <= 15**2) & ((x - 20) ** 2 + (y - 20) ** 2 > 5**2)
    disc = (x - 20) ** 2 + (y - 20) ** 2 <= 15**2
    both = ring | inside(45, 5, 58, 30)
    polygons = outlines_of(both)
    assert len(polygons) == 2
    drawn = coco_masks.decode(rle_of(polygons, (HEIGHT, WIDTH))).astype(bool)
    expected = disc | inside(45, 5, 58, 30)
    assert (drawn & expected).sum() > 0.97 * (drawn | expected).sum()
    assert outlines_of(inside(3, 3, 3, 3)) == []
    [dot] = outlines_of(inside(7, 9, 8, 10))
    assert np.reshape(dot, (-1, 2)).min(axis=0).tolist() == [7.25, 9.25]
    assert np.reshape(dot, (-1, 2)).max(axis=0).tolist() == [7.75, 9.75]
    assert len(outlines_of(np.ones((5, 4), bool))[0]) >= 6


def test_a_polygon_that_reaches_beyond_the_image_keeps_its_shape():
    mask = coco_masks.decode(rle_of([[-20, 0, 20, 0, 20, 20]], (20, 20)))
    assert mask[9, 2]
    assert not mask[13, 2]  # the long side crosses the left edge at y = 10

"""The loss of masks, against slow loops and closed forms."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_iou
from torch import nn
from torch.nn import functional as F

from detclip2.modeling.heads.mask_head import MaskHead
from detclip2.modeling.losses.masks import MaskCriterion, has_masks, mask_targets
from detclip2.modeling.text.token_batch import TokenBatch
from tests.helpers.head_outputs import head_outputs

SIZE, CHANNELS, TEXT, TOKENS = (48, 64), 8, 6, 7
BOXES = [(4, 4, 40, 44), (30, 20, 46, 36), (2, 26, 62, 42)]


def outputs(batch_size=2):
    generator = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(batch_size, CHANNELS, SIZE[0] // s, SIZE[1] // s, generator=generator)
        for s in (8, 16)
    ]
    images = torch.randn(batch_size, 3, *SIZE, generator=generator)
    made = head_outputs(levels, SIZE, generator, pyramid=levels, images=images)
    made.tokens = torch.randn(batch_size, TOKENS, TEXT, generator=generator)
    return made


def disc(box):
    """The ellipse in a box, (H, W) bool."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    x0, y0, x1, y1 = box
    across, down = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
    return across**2 + down**2 <= 1


def sample(boxes=BOXES, classes=(0, 1, 1), masks=None):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    masks = [disc(box) for box in boxes] if masks is None else masks
    instances.gt_masks = BitMasks(torch.stack(masks) if masks else torch.zeros(0, *SIZE))
    return {"supervision": "detection", "instances": instances}


def batch(tokens_of):
    """Captions whose phrases have these tokens."""
    rows = []
    for phrases in tokens_of:
        own = torch.zeros(len(phrases), TOKENS, dtype=torch.bool)
        for row, tokens in zip(own, phrases, strict=True):
            row[list(tokens)] = True
        rows.append(own)
    mask = torch.ones(len(rows), TOKENS, dtype=torch.bool)
    states = torch.zeros(len(rows), TOKENS, TEXT)
    return TokenBatch(states, mask, rows, [torch.zeros(0, dtype=torch.int64)] * len(rows))


@pytest.fixture
def mask_head():
    torch.manual_seed(0)
    head = MaskHead(CHANNELS, (8, 16), TEXT, resolution=4)
    nn.init.normal_(head.token_head.text_bias)
    return head


TEXT_OF = [[(1, 2), (4,)], [(3,), (5, 6)]]


def slow_target(mask, box, size):
    """Which cells are the object by half, from samples on a fine grid; bilinear, as pixels are."""
    x0, y0, x1, y1 = box
    fine = 64
    x = x0 + (x1 - x0) * (torch.arange(size * fine) + 0.5) / (size * fine)
    y = y0 + (y1 - y0) * (torch.arange(size * fine) + 0.5) / (size * fine)
    grid = torch.stack(
        torch.meshgrid(2 * y / SIZE[0] - 1, 2 * x / SIZE[1] - 1, indexing="ij")[::-1], dim=-1
    )
    seen = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)
    return F.avg_pool2d(seen, fine)[0, 0]


def test_targets_are_the_masks_in_their_boxes():
    criterion = MaskCriterion(boxes_per_object=2)
    regions = criterion.regions(outputs(), 0, Boxes(torch.tensor(BOXES, dtype=torch.float32)))
    assert len(regions.objects) > len(BOXES)
    masks = torch.stack([disc(box) for box in BOXES])
    targets = mask_targets(masks, regions, 8)
    share = []
    for box, number, target in zip(
        regions.boxes.tensor.tolist(), regions.objects.tolist(), targets, strict=True
    ):
        exact = slow_target(masks[number], box, 8)
        clear = (exact - 0.5).abs() > 0.15  # a cell is judged by a few samples
        assert torch.equal(target[clear], (exact >= 0.5).float()[clear])
        share.append(clear.float().mean())
    assert torch.stack(share).mean() > 0.8
    left = torch.zeros(1, *SIZE, dtype=torch.bool)
    left[0, :, :32] = True
    whole = criterion.regions(outputs(), 0, Boxes([[16, 8, 48, 40]]))
    [target, *_] = mask_targets(left, whole, 8)
    assert torch.equal(target, torch.tensor([1.0] * 4 + [0.0] * 4).expand(8, 8))


def test_regions_are_true_boxes_and_the_best_predictions_of_each():
    given, true = outputs(), Boxes(torch.tensor(BOXES, dtype=torch.float32))
    regions = MaskCriterion(boxes_per_object=2, iou_threshold=0.4).regions(given, 1, true)
    assert torch.equal(regions.boxes.tensor[:3], true.tensor)
    assert regions.objects[:3].tolist() == [0, 1, 2]
    iou = pairwise_iou(true, Boxes(given.boxes[1]))
    for number in range(3):
        fitting = [
            k
            for k in range(iou.shape[1])
            if iou[number, k] >= 0.4 and iou[number, k] == iou[:, k].max()
        ]
        best = sorted(fitting, key=lambda k: -float(given.centerness[1, k]))[:2]
        own = regions.boxes.tensor[3:][regions.objects[3:] == number]
        assert torch.equal(own, given.boxes[1, best])
        assert torch.allclose(
            regions.share[regions.objects == number], torch.tensor(1 / (1 + len(own)))
        )
    alone = MaskCriterion(boxes_per_object=0).regions(given, 1, true)
    assert alone.share.tolist() == [1, 1, 1]


def test_the_loss_is_the_mean_over_objects(mask_head):
    criterion = MaskCriterion(weight=2.0, boxes_per_object=2, iou_threshold=0.4)
    given, text = outputs(), batch(TEXT_OF)
    samples = [sample(), sample(BOXES[:1], (1,))]
    loss = criterion(mask_head, given, text, samples)["loss_mask"]
    of_objects = []
    for b, one in enumerate(samples):
        instances = one["instances"]
        regions = criterion.regions(given, b, instances.gt_boxes)
        targets = mask_targets(instances.gt_masks.tensor, regions, 8)
        for number, label in enumerate(instances.gt_classes.tolist()):
            of_boxes = []
            for r in (regions.objects == number).nonzero().squeeze(1).tolist():
                logits = torch.zeros(8, 8)
                for token in TEXT_OF[b][label]:
                    weights = F.one_hot(torch.tensor([token]), TOKENS).T.float()
                    words = mask_head.words(given.tokens[b], weights)
                    boxes = [Boxes([]), Boxes([])]
                    boxes[b] = regions.boxes[r]
                    logits = logits + mask_head(given.images, given.pyramid, boxes, words)[0]
                logits = logits / len(TEXT_OF[b][label])
                p = logits.sigmoid()
                entropy = -(targets[r] * p.log() + (1 - targets[r]) * (1 - p).log())
                of_boxes.append(entropy.mean())
            of_objects.append(torch.stack(of_boxes).mean())
    torch.testing.assert_close(loss, 2 * torch.stack(of_objects).mean(), atol=1e-5, rtol=1e-4)


def test_parts_of_a_batch_add_up(mask_head):
    criterion, text = MaskCriterion(), batch(TEXT_OF)
    samples = [sample(), sample(BOXES[:1], (1,))]
    whole = criterion(mask_head, outputs(), text, samples)["loss_mask"]
    counts = criterion.counts(text, samples)
    assert counts == 4
    total = 0.0
    for b in (0, 1):
        given = outputs()
        part = slice(b, b + 1)
        for name in ("regions", "deltas", "centerness", "tokens"):
            setattr(given, name, getattr(given, name)[part])
        given.image_sizes = given.image_sizes[part]
        given.pyramid = [level[part] for level in given.pyramid]
        given.images = given.images[part]
        total += criterion(mask_head, given, text.part(part), samples[part], counts)["loss_mask"]
    torch.testing.assert_close(total, whole)


def test_what_has_no_mask_or_no_words_has_no_loss(mask_head):
    criterion = MaskCriterion()
    text = batch([[(1, 2), ()], [(3,)]])
    unknown = [disc(BOXES[0]), torch.zeros(SIZE, dtype=torch.bool), disc(BOXES[2])]
    samples = [sample(classes=(0, 0, 1), masks=unknown), sample([], (), [])]
    loss = criterion(mask_head, outputs(), text, samples)["loss_mask"]
    alone = criterion(mask_head, outputs(), text, [sample(BOXES[:1], (0,)), samples[1]])
    torch.testing.assert_close(loss, alone["loss_mask"])
    assert criterion.counts(text, samples) == 1


def test_no_objects_have_a_loss_of_0(mask_head):
    text = batch([[], []])
    samples = [sample([], (), []), sample([], (), [])]
    loss = MaskCriterion()(mask_head, outputs(), text, samples)["loss_mask"]
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in mask_head.parameters())


def test_batches_without_masks():
    with_masks, without = sample(), sample()
    without["instances"].remove("gt_masks")
    assert has_masks([with_masks])
    assert not has_masks([with_masks, without])
    assert not has_masks([{"supervision": "caption"}])


def test_the_predicted_boxes_of_an_object_are_those_of_the_best_centerness():
    boxes = torch.tensor([[[0.0, 0, 10, 9], [0, 0, 10, 7], [0, 0, 10, 2]]])  # IoU 0.9, 0.7, 0.2
    outputs = SimpleNamespace(boxes=boxes, centerness=torch.tensor([[0.0, 1.0, 2.0]]))
    true = Boxes(torch.tensor([[0.0, 0, 10, 10]]))
    found = MaskCriterion(boxes_per_object=1).regions(outputs, 0, true)
    assert found.boxes.tensor[1:].tolist() == [[0, 0, 10, 7]]

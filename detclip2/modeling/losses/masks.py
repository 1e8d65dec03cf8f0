"""The loss of masks in boxes (GLIPv2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.roi_align import roi_align

from detclip2.modeling.heads.mask_head import MaskHead
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.layers.collectives import shared_divisor
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.text.token_map import mean_weights


class _Regions(NamedTuple):
    """The R boxes of an image in which masks are learnt."""

    boxes: Boxes
    """XYXY px."""
    objects: Tensor
    """(R,) int64, the object of each."""
    share: Tensor
    """(R,) 1 / number of boxes of the same object."""


class MaskCriterion(nn.Module):
    """Binary cross entropy of masks in true boxes, and in boxes that the model predicts for them.

    Args:
        weight: of the loss.
        boxes_per_object: how many predicted boxes of an object are added to the true one, those
            with the best centerness, as in detections. GLIP's code adds its detections.
        iou_threshold: least IoU of such a box with the object's.
    """

    def __init__(
        self, weight: float = 1.0, boxes_per_object: int = 3, iou_threshold: float = 0.5
    ) -> None:
        super().__init__()
        self.weight = weight
        self.boxes_per_object = boxes_per_object
        self.iou_threshold = iou_threshold

    def forward(
        self,
        mask_head: MaskHead,
        outputs: HeadOutputs,
        text: TokenBatch,
        samples: Sequence[Mapping[str, Any]],
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The mean over objects with a mask of the mean over their boxes and pixels.

        Objects whose phrase is not in the caption, as it does not fit, have no loss.

        Args:
            mask_head: gives the logits.
            outputs: of the head, for B images, with ``pyramid`` and ``images``.
            text: of the B samples.
            samples: B samples whose ``instances`` have ``gt_masks``.
            counts: the divisor, if the samples are a part of a batch: `counts` of the whole batch.

        Returns:
            "loss_mask", 0 without objects.
        """
        assert outputs.pyramid is not None, "the head's outputs do not have the pyramid"
        assert outputs.images is not None, "the head's outputs do not have the images"
        tokens = text.embeddings if outputs.tokens is None else outputs.tokens
        boxes, words, targets, shares = [], [], [], []
        for b, sample in enumerate(samples):
            weights = mean_weights(text.tokens_of[b]).to(tokens.device)
            objects = _with_masks(sample["instances"].to(tokens.device), text, b)
            regions = self.regions(outputs, b, objects.gt_boxes)
            of_objects = mask_head.words(tokens[b], weights[:, objects.gt_classes])
            boxes.append(regions.boxes)
            words.append(of_objects[regions.objects])
            targets.append(mask_targets(objects.gt_masks.tensor, regions, mask_head.mask_size))
            shares.append(regions.share)
        logits = mask_head(outputs.images, outputs.pyramid, boxes, torch.cat(words)).float()
        losses = F.binary_cross_entropy_with_logits(logits, torch.cat(targets), reduction="none")
        total = (losses.mean(dim=(1, 2)) * torch.cat(shares)).sum()
        divisor = self.counts(text, samples) if counts is None else counts
        return {"loss_mask": self.weight * total / divisor}

    def counts(self, text: TokenBatch, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """The objects with a mask: the mean over processes, at least one in all."""
        objects = [_with_masks(sample["instances"], text, b) for b, sample in enumerate(samples)]
        number = text.embeddings.new_tensor(sum(map(len, objects)), dtype=torch.float32)
        return shared_divisor(number)

    @torch.no_grad()
    def regions(self, outputs: HeadOutputs, b: int, true_boxes: Boxes) -> _Regions:
        """The true boxes of image ``b``, then predicted ones, each of the object that it fits best.

        Args:
            outputs: of the head, for B images.
            b: index of the image.
            true_boxes: of N objects, XYXY px.
        """
        device = true_boxes.tensor.device
        objects = torch.arange(len(true_boxes), device=device)
        boxes = true_boxes
        number = min(self.boxes_per_object, outputs.boxes.shape[1])
        if len(true_boxes) and number:
            iou = pairwise_iou(true_boxes, Boxes(outputs.boxes[b]))  # (N, K)
            fits = (iou >= self.iou_threshold) & (iou.argmax(dim=0) == objects[:, None])
            score = outputs.centerness[b].float().sigmoid()
            best, anchor = torch.where(fits, score, -1.0).topk(number, dim=1)
            of_object, place = (best >= 0).nonzero(as_tuple=True)
            boxes = Boxes.cat([boxes, Boxes(outputs.boxes[b, anchor[of_object, place]])])
            objects = torch.cat([objects, of_object])
        return _Regions(boxes, objects, 1 / objects.bincount()[objects])


def has_masks(samples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a batch has masks; the mapper of its source decides it."""
    return all("instances" in s and s["instances"].has("gt_masks") for s in samples)


def mask_targets(masks: Tensor, regions: _Regions, size: int) -> Tensor:
    """The masks of N objects as they are seen in R boxes.

    Args:
        masks: (N, H, W) bool.
        regions: R boxes of these objects.
        size: rows and columns of a target.

    Returns:
        (R, size, size) float32: 1 where at least half of the cell is the object.
    """
    targets = masks.new_zeros(len(regions.objects), size, size, dtype=torch.float32)
    for number, mask in enumerate(masks):  # one at a time: as floats, all would take much memory
        own = (regions.objects == number).nonzero().squeeze(1)
        pixels = mask[None, None].float()
        cells = roi_align(pixels, [regions.boxes.tensor[own]], size, aligned=True)
        targets[own] = (cells[:, 0] >= 0.5).float()
    return targets


def _with_masks(instances: Instances, text: TokenBatch, b: int) -> Instances:
    """The objects of image ``b`` with a known mask and a phrase with tokens."""
    has_tokens = text.tokens_of[b].any(dim=1).to(instances.gt_classes.device)
    return instances[instances.gt_masks.nonempty() & has_tokens[instances.gt_classes]]

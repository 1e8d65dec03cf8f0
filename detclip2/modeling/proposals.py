"""Proposals: the regions that stand for objects in an image without boxes (sec. 3.2, Tab. 2a)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops.boxes import nms

from detclip2.modeling.heads.outputs import HeadOutputs

ProposalScore = Literal[
    "class", "iou", "centerness", "text_sample", "text_batch", "text_batch_centerness"
]


class Proposals(NamedTuple):
    """R regions of each of B images, for losses over the whole batch."""

    regions: Tensor
    """(B, R, D) embeddings, with gradient."""
    anchor: Tensor
    """(B, R) int64 indices into the K anchors, best first; 0 for padding."""
    valid: Tensor
    """(B, R) bool, False for padding."""
    areas: Tensor
    """(B, R) areas of the boxes, px^2."""

    @staticmethod
    def join(parts: Sequence["Proposals"]) -> "Proposals":
        """Those of all images of a batch."""
        return Proposals(*map(torch.cat, zip(*parts, strict=True)))

    def with_gradient(self) -> list[Tensor]:
        """See `ContrastRegions`."""
        return [self.regions]

    def again(self, outputs: HeadOutputs, part: slice) -> list[Tensor]:
        """See `ContrastRegions`."""
        return [outputs.regions.take_along_dim(self.anchor[part, :, None], dim=1)]


@torch.no_grad()
def proposal_scores(
    kind: ProposalScore,
    similarity: Tensor,
    own: Tensor,
    centerness: Tensor,
    objectness: Tensor | None = None,
) -> Tensor:
    """Score the K regions of an image as proposals (Tab. 2a).

    - ``text_batch``: highest similarity with any phrase of the local batch (31.3 AP, the default);
    - ``text_sample``: highest similarity with any phrase of the image's own caption (29.6);
    - ``centerness`` (30.2), and ``text_batch_centerness``: the product of the two (30.9);
    - ``class`` (28.4) and ``iou`` (30.1): a class-agnostic output of the head, trained on data with
      boxes to predict whether an anchor is on an object, or the IoU of its box. The paper gives
      only these names; we assume the usual scores of proposals. The head must have that output.

    ``text_sample`` falls back to the phrases of the batch for an image without phrases, and all
    text scores to centerness for a batch without phrases.

    Args:
        kind: one of these.
        similarity: (K, M) logits S of the image's regions with the phrases of the local batch.
        own: int64 indices of the image's own phrases among the M.
        centerness: (K,) logits.
        objectness: (K,) logits of the head's class-agnostic output, for ``class`` and ``iou``.

    Returns:
        (K,) log-probabilities, in float32: unlike probabilities they do not saturate at 1.

    Raises:
        ValueError: ``class`` or ``iou`` without ``objectness``.
    """
    if kind in ("class", "iou"):
        if objectness is None:
            raise ValueError(f"the proposal score {kind!r} is that of the head's objectness")
        return F.logsigmoid(objectness.float())
    if kind == "centerness" or similarity.shape[1] == 0:
        return F.logsigmoid(centerness.float())
    if kind == "text_sample" and len(own):
        similarity = similarity[:, own.to(similarity.device)]
    scores = F.logsigmoid(similarity.amax(dim=1).float())
    if kind == "text_batch_centerness":
        scores = scores + F.logsigmoid(centerness.float())
    return scores


@torch.no_grad()
def select_proposals(
    boxes: Tensor,
    scores: Tensor,
    num: int = 100,
    nms_threshold: float = 0.6,
    pre_nms: int = 1000,
) -> Tensor:
    """Choose the best regions of an image by non-maximum suppression.

    The paper keeps 100 (Tab. 2d: 25 or 200 cost 0.7 or 0.5 AP) and gives neither the threshold nor
    a number of candidates; the defaults are those of ATSS for its detections.

    Args:
        boxes: (K, 4) XYXY px. Boxes without area, e.g. in the padding, are never chosen.
        scores: (K,), higher is better.
        num: R, the maximum number to keep.
        nms_threshold: IoU above which the lower-scored box is dropped.
        pre_nms: how many of the best enter the suppression.

    Returns:
        (R',) int64 indices into the K regions, R' <= R, best first.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    candidates = torch.where((width > 0) & (height > 0))[0]
    best = scores[candidates].topk(min(pre_nms, len(candidates))).indices
    candidates = candidates[best]
    keep = nms(boxes[candidates].float(), scores[candidates].float(), nms_threshold)[:num]
    return candidates[keep]


def stack_proposals(proposals: list[Tensor], num: int) -> tuple[Tensor, Tensor]:
    """Pad the proposals of B images to R each.

    Args:
        proposals: for each image the (R',) indices of its proposals, R' <= R.
        num: R.

    Returns:
        (B, R) indices, padded with 0, and (B, R) bool, False for padding.
    """
    index = torch.stack([F.pad(p, (0, num - len(p))) for p in proposals])
    counts = torch.tensor([len(p) for p in proposals], device=index.device)
    return index, torch.arange(num, device=index.device) < counts[:, None]

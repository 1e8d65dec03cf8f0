"""The post-processing of a graph's outputs in numpy, equal to that of the model.

`detclip2.modeling.postprocess.PostProcess` and Detectron2's ``detector_postprocess`` say why each
step is as it is; the tests compare them.
"""

import numpy as np

from detclip2.export.info import GraphInfo

Size = tuple[int, int]


def postprocess(
    logits: np.ndarray,
    centerness: np.ndarray,
    boxes: np.ndarray,
    info: GraphInfo,
    seen: Size,
    original: Size,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of one image, best first.

    Args:
        logits: (K, R), see `GraphInfo`; so the next two.
        centerness: (K,).
        boxes: (K, 4).
        info: settings, and the rows of the C labels.
        seen: height and width of the image as the model sees it, without padding, px.
        original: height and width of the image itself, px.

    Returns:
        (N, 4) boxes XYXY px of the original image, (N,) scores in [0, 1], (N,) labels in [0, C).
    """
    if info.rows is not None and max(info.rows, default=1) > 1:
        starts = np.cumsum((0, *info.rows[:-1]))
        logits = np.maximum.reduceat(logits, starts, axis=1)
    scores, anchor, label = candidates(
        logits, centerness, info.score_threshold, info.max_candidates
    )
    found = clipped(boxes[anchor], seen)
    keep = batched_nms(
        found, np.zeros_like(label) if info.class_agnostic_nms else label, info.nms_threshold
    )
    keep = keep[has_area(found[keep])][: info.max_detections]
    scale = np.array([original[1] / seen[1], original[0] / seen[0]], np.float32)
    found = clipped(found[keep] * np.tile(scale, 2), original)
    scores, label = scores[keep], label[keep]
    final = has_area(found)
    if info.calibration is not None:
        scores = info.calibration(scores, label)
    if info.thresholds is not None:
        final &= scores >= np.array(info.thresholds, scores.dtype)[label]
    found, scores, label = found[final], scores[final].astype(np.float32), label[final]
    if info.calibration is not None:
        best_first = np.argsort(-scores, kind="stable")
        found, scores, label = found[best_first], scores[best_first], label[best_first]
    return found, scores, label


def candidates(
    logits: np.ndarray, centerness: np.ndarray, score_threshold: float, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best pairs of an anchor and a label above the threshold, best first.

    Args:
        logits: (K, C).
        centerness: (K,) logits.
        score_threshold: in [0, 1].
        number: maximum number of pairs.

    Returns:
        Scores sqrt(sigmoid(S) * sigmoid(centerness)), anchors in [0, K) and labels in [0, C).
    """
    floor = np.float32(score_threshold**2)
    centers = sigmoid(centerness)
    alive = np.flatnonzero(centers > floor)
    with np.errstate(divide="ignore"):  # a threshold of 0 has the logit -inf
        share = floor / centers[alive]
        lowest = np.log(share / (1 - share))
    # Most anchors have no label above it, and few pairs are left for the exponential function.
    some = ~(logits[alive].max(axis=1, initial=-np.inf) <= lowest)
    alive, lowest = alive[some], lowest[some]
    row, label = np.nonzero(logits[alive] > lowest[:, None])
    anchor = alive[row]
    scores = np.sqrt(sigmoid(logits[anchor, label]) * centers[anchor])
    best = np.argsort(-scores, kind="stable")[:number]
    return scores[best], anchor[best], label[best]


def batched_nms(boxes: np.ndarray, groups: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression in each group: the indices that stay, best first.

    Args:
        boxes: (P, 4) XYXY px, best first.
        groups: (P,) boxes of different groups do not suppress each other.
        threshold: of two boxes with a higher IoU the later one is dropped.
    """
    kept = np.zeros(len(boxes), bool)
    for group in np.unique(groups):
        (remaining,) = np.nonzero(groups == group)
        while len(remaining):
            first, remaining = remaining[0], remaining[1:]
            kept[first] = True
            # Negated, so that the NaN of two empty boxes suppresses nothing, as in torchvision.
            remaining = remaining[~(iou(boxes[first], boxes[remaining]) > threshold)]
    return np.flatnonzero(kept)


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(P,) intersection over union of a box (4,) with boxes (P, 4), XYXY px."""
    corners = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = corners.clip(min=0).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    with np.errstate(invalid="ignore"):
        return common / ((box[2:] - box[:2]).prod() + area - common)


def clipped(boxes: np.ndarray, size: Size) -> np.ndarray:
    """(P, 4) boxes, cut at the borders of an image of a height and width in px."""
    height, width = size
    return boxes.clip(0, np.array([width, height, width, height], boxes.dtype))


def has_area(boxes: np.ndarray) -> np.ndarray:
    """(P,) whether the width and the height are above 0."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))

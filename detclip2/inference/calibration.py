"""Calibration: from the scores of a model to the share of detections that are right, by label.

It is possible because the score of a label does not depend on the other labels of a vocabulary, so
that a map which was fitted once holds in every call. No PyTorch is imported here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRID = np.linspace(0, 1, 101)
"""The scores at which a map is stored; between them it is linear."""
MIN_BOXES = 20
"""Boxes, and detections, from which on a label has a map of its own."""
BINS = 10
"""Intervals of the score in `Reliability`."""
_POOLED = 0.25
"""Detections that the pooled map counts for in the map of a label, at each score of `GRID`."""
_TOGETHER = 5
"""Detections that are judged together: of a few alone, all may be right by chance, and a map that
says so is too sure."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Monotone maps from scores to the share of detections that are right, for C labels."""

    maps: NDArray[np.float32]
    """(G, 101) in [0, 1], not falling: the values of G maps at `GRID`. The first is the pooled one,
    of all labels together."""
    map_of_label: tuple[int, ...]
    """C values in [0, G)."""

    def fault(self, num_labels: int) -> str:
        """What is wrong with values from a file, for so many labels; "" if nothing is."""
        maps, of_label = self.maps, self.map_of_label
        if maps.ndim != 2 or maps.shape[1] != len(GRID) or not len(maps):
            return f"its maps have the shape {maps.shape}, not (G, {len(GRID)})"
        # Negated, so that NaN is a fault.
        if not ((maps >= 0) & (maps <= 1)).all() or not (np.diff(maps) >= 0).all():
            return "its maps are not monotone from 0 to 1"
        if not isinstance(of_label, tuple) or len(of_label) != num_labels:
            return f"it does not have one map for each of its {num_labels} labels"
        if not all(type(one) is int and 0 <= one < len(maps) for one in of_label):
            return f"its labels do not all have one of its {len(maps)} maps"
        return ""

    def __call__(self, scores: ArrayLike, labels: ArrayLike) -> Floats:
        """The calibrated scores of P detections.

        Args:
            scores: (P,) of the model, in [0, 1].
            labels: (P,) in [0, C).

        Returns:
            (P,) in [0, 1]; of detections of one label, in the same order as the scores.
        """
        rows = np.asarray(self.map_of_label)[np.asarray(labels, np.int64)]
        return np.asarray(interpolated(self.maps, rows, np.asarray(scores, np.float64)))

    def least_score(self, calibrated: ArrayLike) -> float:
        """A score of the model that no detection is below which reaches the threshold of its label.

        Args:
            calibrated: (C,) thresholds of the labels, as calibrated scores.
        """
        least = np.ones(len(self.maps))
        np.minimum.at(least, np.asarray(self.map_of_label), np.asarray(calibrated, np.float64))
        below = (self.maps < least[:, None]).sum(axis=1).min()
        return float(GRID[max(below - 1, 0)])


def interpolated(maps: NDArray[np.float32], rows: NDArray[np.int64], scores: Floats) -> Floats:
    """The values of maps, (P,): of map ``rows[p]`` at ``scores[p]``."""
    position = np.clip(scores, 0, 1) * (len(GRID) - 1)
    left = np.minimum(position.astype(np.int64), len(GRID) - 2)
    low, high = (maps[rows, at].astype(np.float64) for at in (left, left + 1))
    return low + (position - left) * (high - low)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """P detections of C labels, each right or wrong, and the N boxes that were to be found."""

    images: NDArray[np.int64]
    """(P,) positions of the images."""
    labels: NDArray[np.int64]
    """(P,) in [0, C)."""
    scores: Floats
    """(P,) scores of the model."""
    right: NDArray[np.bool_]
    """(P,) whether the detection was matched with a box of its label."""
    box_images: NDArray[np.int64]
    """(N,)."""
    box_labels: NDArray[np.int64]
    """(N,)."""

    def of_half(self, half: int) -> "Outcomes":
        """Those of every other image, from the first (0) or the second (1) on."""
        here, boxes = self.images % 2 == half, self.box_images % 2 == half
        return Outcomes(
            *(one[here] for one in (self.images, self.labels, self.scores, self.right)),
            *(one[boxes] for one in (self.box_images, self.box_labels)),
        )


def fit(
    outcomes: Outcomes, num_labels: int, precision: float | None = None
) -> tuple[Calibration, tuple[float, ...]]:
    """The calibration of C labels, and the threshold of each as a calibrated score.

    A map is the isotonic regression of right and wrong on the score. A label with at least
    `MIN_BOXES` boxes and detections has its own, in which the pooled map counts as 25 detections,
    spread evenly over the scores, so that it decides where the label has hardly any. The other
    labels have the pooled map and its threshold.

    Args:
        outcomes: of images like those to come.
        num_labels: C.
        precision: in (0, 1): the share of right ones among the detections that reach the threshold;
            1, which nothing reaches, where the label has no such score. None: the threshold of the
            best F1, the harmonic mean of precision and recall.
    """
    boxes = np.bincount(outcomes.box_labels, minlength=num_labels)
    found = np.bincount(outcomes.labels, minlength=num_labels)
    of_label = np.split(np.argsort(outcomes.labels, kind="stable"), np.cumsum(found)[:-1])
    pooled = isotonic(outcomes.scores, outcomes.right)
    maps, thresholds = [pooled], [_threshold(pooled, outcomes.scores, boxes.sum(), precision)]
    map_of_label = np.zeros(num_labels, np.int64)
    for label in np.flatnonzero(np.minimum(boxes, found) >= MIN_BOXES):
        scores, right = outcomes.scores[of_label[label]], outcomes.right[of_label[label]]
        weights = np.r_[np.ones(len(scores)), np.full(len(GRID), _POOLED)]
        own = isotonic(np.r_[scores, GRID], np.r_[right, pooled], weights)
        map_of_label[label] = len(maps)
        maps.append(own)
        thresholds.append(_threshold(own, scores, boxes[label], precision))
    calibration = Calibration(np.stack(maps), tuple(map_of_label.tolist()))
    return calibration, tuple(thresholds[i] for i in calibration.map_of_label)


def cross_fitted(
    outcomes: Outcomes, num_labels: int, precision: float | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Calibrated scores of detections, and whether they are kept, by the other half of the images.

    No detection takes part in the fit of its own score, so that both say how good a calibration is
    on new images: one that is fitted to all has twice as many.

    Args:
        outcomes: P detections.
        num_labels: C.
        precision: see `fit`.

    Returns:
        (P,) calibrated scores, (P,) whether each reaches the threshold of its label.
    """
    scores, kept = np.zeros(len(outcomes.scores)), np.zeros(len(outcomes.scores), bool)
    for half in (0, 1):
        calibration, thresholds = fit(outcomes.of_half(1 - half), num_labels, precision)
        here = outcomes.images % 2 == half
        labels = outcomes.labels[here]
        scores[here] = calibration(outcomes.scores[here], labels)
        kept[here] = scores[here] >= np.asarray(thresholds)[labels]
    return scores, kept


def isotonic(
    scores: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float32]:
    """The map of a least-squares isotonic regression of ``right`` on ``scores``, at `GRID`.

    About five detections are judged together, counted from the best one. The steps are joined by
    lines from middle to middle; before the first and after the last middle the map is constant.
    Without any score it changes none.

    Args:
        scores: (P,) in [0, 1].
        right: (P,) in [0, 1].
        weights: (P,) above 0; None: all equal.
    """
    from scipy.optimize import isotonic_regression  # not needed to use a calibration

    levels, index = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    if not len(levels):
        return GRID.astype(np.float32)
    each = np.ones(len(index)) if weights is None else np.asarray(weights, np.float64)
    not_worse = np.cumsum(np.bincount(index, each)[::-1])[::-1]
    _, group = np.unique(-np.ceil(not_worse / _TOGETHER), return_inverse=True)
    index = group[index]
    weight = np.bincount(index, each)
    x = np.bincount(index, each * np.asarray(scores)) / weight
    means = np.bincount(index, each * np.asarray(right, np.float64)) / weight
    fitted = isotonic_regression(means, weights=weight)
    starts = fitted.blocks[:-1]
    middles = np.add.reduceat(x * weight, starts) / np.add.reduceat(weight, starts)
    values = np.interp(GRID, middles, np.clip(fitted.x[starts], 0, 1))
    return np.maximum.accumulate(values.astype(np.float32))


def _threshold(
    of_map: NDArray[np.float32], scores: Floats, boxes: int, precision: float | None
) -> float:
    """The calibrated score of `fit` from which on detections are kept.

    Args:
        of_map: (101,).
        scores: (P,) of the model.
        boxes: how many are to be found.
        precision: see `fit`.
    """
    best_first = -np.sort(-scores)
    calibrated = interpolated(of_map[None], np.zeros(len(scores), np.int64), best_first)
    right, kept = np.cumsum(calibrated), np.arange(1, len(scores) + 1)
    # Equal scores are kept together.
    (last,) = np.nonzero(np.append(calibrated[1:] < calibrated[:-1], True)[: len(scores)])
    if precision is None:
        chosen = last[np.argsort(-right[last] / (kept[last] + boxes), kind="stable")[:1]]
    else:
        chosen = last[right[last] >= precision * kept[last]][-1:]
    return float(calibrated[chosen[0]]) if len(chosen) else 1.0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Scores beside the share of right detections, in `BINS` equal intervals of the score."""

    counts: NDArray[np.int64]
    """(BINS,) detections."""
    scores: Floats
    """(BINS,) their mean score; NaN without any."""
    right: Floats
    """(BINS,) the share of right ones; NaN without any."""

    @classmethod
    def of(cls, scores: ArrayLike, right: ArrayLike) -> "Reliability":
        """That of P detections: (P,) scores in [0, 1], (P,) whether they are right."""
        scores, right = np.asarray(scores, np.float64), np.asarray(right, np.float64)
        index = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
        counts = np.bincount(index, minlength=BINS)
        sums = [np.bincount(index, one, minlength=BINS) for one in (scores, right)]
        means = [np.divide(one, counts, np.full(BINS, np.nan), where=counts > 0) for one in sums]
        return cls(counts, *means)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over detections of the distance between the
        score and the share of right ones of their interval, in [0, 1]; NaN without detections.
        """
        if not self.counts.sum():
            return float("nan")
        gaps = np.nan_to_num(np.abs(self.scores - self.right))
        return float((self.counts * gaps).sum() / self.counts.sum())

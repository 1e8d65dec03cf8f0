"""From the detections of a model to those that are reported, by calibration and thresholds."""

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from detclip2.inference.vocabulary import Vocabulary


def model_threshold(vocabulary: Vocabulary, asked: float | None = None) -> float | None:
    """The score of the model from which detections can be reported.

    Args:
        vocabulary: its labels are detected.
        asked: the least score of a reported detection; None: only the thresholds of labels count.

    Returns:
        None where the model's own threshold counts: without a calibration, or without limits.
    """
    if vocabulary.calibration is None or (asked is None and vocabulary.thresholds is None):
        return None
    return vocabulary.calibration.least_score(_least_scores(vocabulary, asked))


def reported(instances: Instances, vocabulary: Vocabulary, asked: float | None = None) -> Instances:
    """The detections of an image that reach the threshold of their label, best first.

    Args:
        instances: from the model, on the CPU.
        vocabulary: its labels were detected.
        asked: the least score of a reported detection. Without a calibration it has no effect, as
            it is one of the model.

    Returns:
        Those with calibrated scores, if there is a calibration.
    """
    if vocabulary.calibration is None:
        if vocabulary.thresholds is None:
            return instances
        least = instances.scores.new_tensor(vocabulary.thresholds)[instances.pred_classes]
        return instances[instances.scores >= least]
    labels = instances.pred_classes.numpy()
    scores = vocabulary.calibration(instances.scores.numpy(), labels)
    instances.scores = torch.from_numpy(scores).float()
    best_first = np.argsort(-scores, kind="stable")
    kept = (scores >= _least_scores(vocabulary, asked)[labels])[best_first]
    chosen: Any = torch.from_numpy(best_first[kept])
    return instances[chosen]


def _least_scores(vocabulary: Vocabulary, asked: float | None) -> np.ndarray:
    """(C,) the least calibrated score of each label."""
    return np.maximum(vocabulary.thresholds or np.zeros(len(vocabulary)), asked or 0)

"""A model whose correct answers are known, images for it, and comparisons of results."""

from types import SimpleNamespace

import numpy as np
import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from detclip2.modeling.thresholds import DetectionThresholds

COLORS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


class ColorModel(nn.Module):
    """The inference of an OpenVocabularyModel whose correct answers are known.

    The embedding of a colour's name is the colour, and a name is detected where its colour is.
    """

    embed_dim = 3
    text_identity = "colours"
    reads_names = False
    thresholds = DetectionThresholds(0.5, 0.6, False, 100)
    postprocess = SimpleNamespace(thresholds=thresholds)

    def __init__(self):
        super().__init__()
        self.batches = []
        self.encoded = []
        self.prepared = []

    def encode_phrases(self, phrases):
        self.encoded.append(tuple(phrases))
        return torch.tensor([COLORS.get(p, (1, 1, 1)) for p in phrases], dtype=torch.float32)

    def prepare_vocabulary(self, vocabulary):
        self.prepared.append(vocabulary.labels)
        return vocabulary.embeddings

    def inference(self, samples, vocabulary=None, thresholds=None):
        self.batches.append([tuple(sample["image"].shape[1:]) for sample in samples])
        thresholds = thresholds.or_else(self.thresholds)
        return [self.detect(**sample, thresholds=thresholds) for sample in samples]

    def detect(self, image, height, width, vocabulary, thresholds):
        found = []
        for name, color in enumerate(vocabulary * 255):
            ys, xs = (image - color[:, None, None]).abs().sum(0).lt(30).nonzero(as_tuple=True)
            score = 1 / (1 + name)
            if len(ys) and score >= thresholds.score_threshold:
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                found.append(([float(x) for x in box], score, name))
        found = found[: thresholds.max_detections]
        instances = Instances(
            tuple(image.shape[1:]),
            pred_boxes=Boxes(torch.tensor([f[0] for f in found]).reshape(-1, 4)),
            scores=torch.tensor([f[1] for f in found]),
            pred_classes=torch.tensor([f[2] for f in found], dtype=torch.int64),
        )
        return detector_postprocess(instances, height, width)


def draw_image(height=60, width=80, **boxes):
    """A white image with rectangles: colour=(x1, y1, x2, y2)."""
    image = np.full((height, width, 3), 255, np.uint8)
    for color, (x1, y1, x2, y2) in boxes.items():
        image[y1:y2, x1:x2] = COLORS[color]
    return image


def equal(one, other):
    return (
        one.image_size == other.image_size
        and one.labels == other.labels
        and torch.allclose(one.scores, other.scores, atol=1e-6)
        and torch.allclose(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3)
    )


def identical(one, other):
    return (
        one.labels == other.labels
        and torch.equal(one.scores, other.scores)
        and torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    )

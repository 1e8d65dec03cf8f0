r"""Name regions of images by an ImageNet classifier, to train on them.

    python -m scripts.name_regions LINES.jsonl --image-root DIR --weights FILE \
        --output regions.jsonl [--named | --text-tower DIR [--names FILE]] [--score 0.5]

LINES has ``{"image", "caption"?}``, one image a line; a caption may be a list of sentences. The
classifier is a convolutional model of timm (--classifier); FILE has its weights. It runs once on an
image, and the features behind its last convolution are used in one of three ways:

- they are averaged in windows of several sizes, each is classified, and those with a probability
  of at least --score are kept, the best of overlapping ones. Their phrase is the class's name.
- with --named, the caption is the name of the one thing that the image shows. Its box is the part
  where the classes of the whole image are active (class activation map, arXiv 1512.04150).
- with --text-tower, the phrases are those of the list --names, or the noun phrases of the image's
  own captions. The box of a phrase is the part where classes with names like it are active. It is
  kept if its classes are like the phrase: the mean vector of the ten best, weighted by
  probability, has a product with the phrase's vector of at least --score.

The output is ODVG jsonl, as that of ``scripts/pseudo_label.py``; lines without regions stay out.

A departure from the paper, which learns from image-text pairs by contrast alone (sec. 3.2): with a
few thousand pairs instead of 13 million, contrast finds no regions. Boxes are rough: the source's
losses should be those of grounding, without the box losses.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import cv2
import numpy as np
import timm
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

from detclip2.data.datasets.pseudo_labels import odvg_line, write_odvg
from detclip2.data.io.image import read_image
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.names import read_names
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer
from detclip2.utils.errors import UserError
from detclip2.utils.weights import load_weights

STRIDE = 32
SIZES = (0.4, 0.6, 0.9)
"""Sides of windows, of the image's short side."""
ASPECTS = (0.6, 1.0, 1.6)
OVERLAP = 0.4
"""IoU above which the less probable window is dropped."""
ACTIVE = 0.3
"""Share of the largest activation that belongs to the thing."""
TEMPERATURE = 0.1
"""Of similarities of names: how fast the weight of a class falls with them."""


class Teacher(NamedTuple):
    """An ImageNet classifier with the names of its classes."""

    model: Any
    """A timm model with ``forward_features`` and ``get_classifier``, in evaluation mode."""
    names: list[str]
    """The phrase of each of the 1,000 classes."""
    size: int
    """Short side of its input, px, a multiple of 32."""
    mean: float = 127.0
    std: float = 128.0

    @torch.no_grad()
    def features(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) RGB uint8 -> (1, C, h, w) features behind the last convolution."""
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        sides = [max(round(side * scale / STRIDE), 1) * STRIDE for side in (width, height)]
        resized = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
        x = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
        x = (x - self.mean) / self.std
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model.forward_features(
                x.contiguous(memory_format=torch.channels_last)
            ).float()

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """(N, C) averaged features -> (N, 1000)."""
        return self.model.get_classifier()(features).softmax(1)


def load_teacher(name: str, weights: Path, size: int) -> Teacher:
    """A timm model with weights of its own names, which classifies ImageNet-1k.

    Raises:
        UserError: the weights do not fit.
    """
    model: nn.Module = timm.create_model(name, pretrained=False)
    load_weights(model, weights)
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(i).split(",")[0].strip() for i in range(1000)]
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(model, names, size)


def windows(height: float, width: float) -> Tensor:
    """(N, 4) windows of all sizes and aspects that fit into an image, XYXY px."""
    boxes = []
    for size in SIZES:
        for aspect in ASPECTS:
            side = size * min(height, width)
            h, w = side * aspect**0.5, side / aspect**0.5
            if h > height or w > width:
                continue
            for y in np.linspace(0, height - h, 1 + int(np.ceil((height - h) / (h / 3)))):
                for x in np.linspace(0, width - w, 1 + int(np.ceil((width - w) / (w / 3)))):
                    boxes.append([x, y, x + w, y + h])
    boxes.append([0.0, 0.0, width, height])
    return torch.tensor(boxes, dtype=torch.float32)


def named_windows(
    teacher: Teacher, image: np.ndarray, score: float
) -> list[tuple[str, list[float]]]:
    """The phrases and boxes (XYXY px) of the windows that the teacher is sure of."""
    boxes = windows(*image.shape[:2])
    sure, chosen = region_probabilities(teacher, teacher.features(image), image, boxes).max(1)
    kept = (sure >= score).nonzero().squeeze(1)
    kept = kept[nms(boxes[kept], sure[kept], OVERLAP)]
    phrases = [teacher.names[i] for i in chosen[kept].tolist()]
    return list(zip(phrases, boxes[kept].double().numpy().round(1).tolist(), strict=True))


def region_probabilities(
    teacher: Teacher, features: Tensor, image: np.ndarray, boxes: Tensor
) -> Tensor:
    """(N, 1000) probabilities of the classes in N boxes, XYXY px of the image."""
    height, width = image.shape[:2]
    cells = torch.tensor([features.shape[3] / width, features.shape[2] / height]).repeat(2)
    pooled = roi_align(features, [boxes * cells], 3, aligned=True).mean((2, 3))
    return teacher.probabilities(pooled)


def active_part(
    teacher: Teacher, features: Tensor, image: np.ndarray, classes: Tensor
) -> list[float]:
    """The box, XYXY px, of the largest part of an image where classes are active.

    Args:
        teacher: has the weights of the classes.
        features: (1, C, h, w) of the image.
        image: (H, W, 3).
        classes: (1000,) their weights, which sum to 1.
    """
    height, width = image.shape[:2]
    weight = teacher.model.get_classifier().weight
    direction = classes @ weight - weight.mean(0)
    map_ = torch.einsum("c,chw->hw", direction.detach(), features[0])
    map_ = F.interpolate(map_[None, None], (height, width), mode="bilinear")[0, 0]
    if map_.max() <= 0:  # nowhere more than the mean of all classes
        return [0.0, 0.0, float(width), float(height)]
    active = (map_ >= ACTIVE * map_.max()).numpy().astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(active)
    x, y, w, h, _ = max(parts[1:].tolist(), key=lambda part: part[4])
    return [float(x), float(y), float(x + w), float(y + h)]


class Words:
    """Compares the classes of a teacher with any phrases, by the vectors of a text tower.

    Args:
        classes: the 1,000 names of the classes.
        tower: encodes names and phrases.
    """

    def __init__(self, classes: Sequence[str], tower: TextTower) -> None:
        self.tower = tower
        self.of_classes = self.vectors(classes)

    @torch.no_grad()
    def vectors(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) unit vectors."""
        return F.normalize(self.tower.encode_phrases(list(phrases)), dim=1)

    def classes_like(self, phrases: Tensor) -> Tensor:
        """(M, D) vectors of phrases -> (M, 1000) weights of classes, which sum to 1."""
        return (phrases @ self.of_classes.T / TEMPERATURE).softmax(1)

    def similarity(self, probabilities: Tensor, phrases: Tensor, best: int = 10) -> Tensor:
        """(M, 1000), (M, D) -> (M,) at most 1; smaller where the teacher is less sure."""
        top = probabilities.topk(best, dim=1)
        mean = (self.of_classes[top.indices] * top.values[..., None]).sum(1)
        return (mean * phrases).sum(1)


def located_phrases(
    teacher: Teacher, image: np.ndarray, score: float, words: Words, phrases: Sequence[str]
) -> list[tuple[str, list[float]]]:
    """Those of M phrases whose things the teacher sees, each with one box (XYXY px)."""
    if not phrases:
        return []
    features = teacher.features(image)
    vectors = words.vectors(phrases)
    boxes = [active_part(teacher, features, image, own) for own in words.classes_like(vectors)]
    probabilities = region_probabilities(teacher, features, image, torch.tensor(boxes))
    sure = words.similarity(probabilities, vectors) >= score
    return [(phrases[i], boxes[i]) for i in sure.nonzero().squeeze(1).tolist()]


def name_regions(
    lines: Sequence[dict[str, Any]],
    root: Path,
    teacher: Teacher,
    score: float,
    named: bool = False,
    words: Words | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """ODVG lines of the images in which a region has a name; arguments as in the module."""
    for line in lines:
        image = read_image(root / line["image"])
        captions = line.get("caption", "")
        captions = captions if isinstance(captions, list) else [captions]
        if named:
            features = teacher.features(image)
            [classes] = teacher.probabilities(features.mean((2, 3)))
            box = active_part(teacher, features, image, classes)
            regions = [(without_article(clean_phrase(captions[0])), box)]
        elif words is not None:
            own = [phrase for text in captions for phrase in extract_noun_phrases(text)]
            phrases = names or unique_phrases(own)
            regions = located_phrases(teacher, image, score, words, phrases)
        else:
            regions = named_windows(teacher, image, score)
        if regions:
            yield odvg_line(line["image"], image.shape[:2], " ".join(captions), regions)


def without_article(phrase: str) -> str:
    """A phrase without "a", "an" or "the" in front."""
    first, _, rest = phrase.partition(" ")
    return rest if first.casefold() in ("a", "an", "the") and rest else phrase


def main(argv: list[str] | None = None) -> int:
    """Name and write; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", type=Path, metavar="LINES")
    parser.add_argument("--image-root", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL")
    parser.add_argument("--classifier", default="tf_efficientnet_lite0", metavar="NAME")
    parser.add_argument("--size", type=int, default=320, help="short side, px; default 320")
    parser.add_argument(
        "--score", type=float, default=0.5, help="least probability or similarity; default 0.5"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--named", action="store_true", help="captions are names of one thing")
    kind.add_argument("--text-tower", metavar="DIR", help="compares classes with other phrases")
    parser.add_argument("--names", type=Path, metavar="FILE", help="phrases to locate")
    args = parser.parse_args(argv)
    try:
        teacher = load_teacher(args.classifier, args.weights, args.size)
        names = [entry[0] for entry in read_names(args.names)[0]] if args.names else None
        if names and not args.text_tower:
            raise UserError("--names needs --text-tower, which compares names")
        words = None
        if args.text_tower:
            model, tokenizer = load_text_model(args.text_tower), load_tokenizer(args.text_tower)
            tower = TextTower(model, tokenizer, embed_dim=None, pooling="mean")
            words = Words(teacher.names, tower.eval())
        lines = [json.loads(line) for line in args.lines.read_text(encoding="utf-8").splitlines()]
        found = name_regions(lines, args.image_root, teacher, args.score, args.named, words, names)
        boxes = write_odvg(found, args.output)
    except (UserError, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {boxes} boxes of {len(lines)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())

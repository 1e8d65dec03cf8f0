"""Rows of a vocabulary from example boxes, for what no name says.

The row of a label is ``inverse(covariance) @ (mean of its examples - mean of all)``: linear
discriminant analysis with one covariance for all categories (Hariharan, Malik and Ramanan, ECCV
2012). Covariance and mean are those of the regions of a model on many categories, and are computed
once: `ExampleProjector.fit`. The plain mean of the examples, which needs neither, finds everything:
what regions have in common outweighs what distinguishes them (docs/vocabulary.md has the numbers).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from detectron2.structures import Boxes, pairwise_iou
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.io.image import ImageSource, read_image
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.tuned_file import fingerprint
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import EXAMPLES_NAME

FORMAT = "detclip2-examples-1"
MIN_IOU = 0.5
"""A region describes a box if its own box overlaps with it so much."""
RIDGE = 0.1
"""What is added to the covariance, as a share of its mean variance. From 0.03 to 0.3 the AP over
regions of unseen categories hardly changes: 26.6 to 25.7 with five examples."""


@dataclass(frozen=True, eq=False)
class ExampleImage:
    """An image with boxes of examples."""

    image: ImageSource
    boxes: Tensor
    """(N, 4) XYXY px of the image."""
    labels: Sequence[str]
    """N labels."""


@dataclass(frozen=True, eq=False)
class ExampleProjector:
    """A linear map from regions of a model to rows of its vocabularies."""

    matrix: Tensor
    """(D, D) float32, the inverse of the covariance of regions within a category."""
    center: Tensor
    """(D,) float32, the mean of the regions of all categories."""
    model: str
    """`fingerprint` of the model."""

    def __call__(self, regions: Tensor) -> Tensor:
        """(N, D) regions of the examples of a label, N at least 1 -> (D,) its row, unit length."""
        return F.normalize(self.matrix @ (regions.mean(0) - self.center), dim=0)

    @classmethod
    def fit(
        cls, predictor: OpenVocabularyPredictor, images: Iterable[ExampleImage]
    ) -> "ExampleProjector":
        """Compute the map of a model by annotated images.

        Args:
            predictor: with the model.
            images: some thousand boxes, of as many categories as there are.

        Raises:
            UserError: an image cannot be read; there are fewer regions than twice D, or only one
                category.
        """
        width = predictor.model.embed_dim
        square = torch.zeros(width, width, dtype=torch.float64)
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for one in images:
            for label, regions in regions_of(predictor, one):
                regions = regions.double()
                square += regions.T @ regions
                sums[label] = regions.sum(0) + sums.get(label, 0)
                counts[label] = counts.get(label, 0) + len(regions)
        total = sum(counts.values())
        if total < 2 * width or len(sums) < 2:
            raise UserError(
                f"{total} regions of {len(sums)} categories are too few to fit a projector of "
                f"examples: expected {2 * width} of 2 categories"
            )
        between = sum(torch.outer(sums[k], sums[k]) / counts[k] for k in sums)
        covariance = (square - between) / total
        ridge = RIDGE * covariance.diagonal().mean() * torch.eye(width)
        center = torch.stack([*sums.values()]).sum(0) / total
        matrix = torch.linalg.inv(covariance + ridge)
        identity = fingerprint(predictor.model.state_dict())
        return cls(matrix.float(), center.float(), identity)

    @classmethod
    def of(cls, predictor: OpenVocabularyPredictor) -> "ExampleProjector":
        """The projector in the model folder of a predictor.

        Raises:
            UserError: there is none, it is damaged, or it was fitted to other weights.
        """
        model = predictor.model
        if model.reads_names:
            raise UserError("this model reads names: no example takes the place of one")
        path = None if predictor.folder is None else predictor.folder / EXAMPLES_NAME
        if path is None or not path.is_file():
            raise UserError(
                f"this model has no {EXAMPLES_NAME}, which makes rows of examples: emoji_nano has "
                "one, and docs/vocabulary.md says how to fit one"
            )
        projector = cls.load(path)
        if projector.model != fingerprint(model.state_dict()):
            raise UserError(f"{path} was fitted to other weights: fit it again")
        if len(projector.center) != model.embed_dim:
            raise UserError(f"{path} is damaged: it is not as wide as the model")
        return projector

    def save(self, path: Path) -> None:
        """Write it to a .safetensors file, whole or not at all."""
        content = save(
            {"matrix": self.matrix.contiguous(), "center": self.center},
            {"format": FORMAT, "model": self.model},
        )
        write_whole(path, lambda file: file.write(content))

    @classmethod
    def load(cls, path: Path) -> "ExampleProjector":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or another one.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(f"{path} is no projector of examples (format {FORMAT})")
                matrix, center = (file.get_tensor(key).float() for key in ("matrix", "center"))
                model = metadata["model"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: this projector is damaged: {error}") from None
        is_square = center.ndim == 1 and matrix.shape == (len(center), len(center))
        if not is_square or not (matrix.isfinite().all() and center.isfinite().all()):
            raise UserError(f"{path}: this projector is damaged: no square matrix of numbers")
        return cls(matrix, center, model)

    def rows(
        self, predictor: OpenVocabularyPredictor, images: Iterable[ExampleImage]
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The rows of labels from examples.

        Args:
            predictor: with the model that the projector belongs to.
            images: with examples of some labels.

        Returns:
            Label -> (D,) its row; label -> how many of its boxes were used. In the boxes that are
            not used the model sees no object.

        Raises:
            UserError: an image cannot be read; there is no example, or a label has no box that is
                used.
        """
        of_box: dict[str, list[Tensor]] = {}
        for one in images:
            for label in one.labels:
                of_box.setdefault(label, [])
            for label, regions in regions_of(predictor, one):
                of_box[label].append(regions.mean(0))
        if not of_box:
            raise UserError("there is no example")
        for label, found in of_box.items():
            if not found:
                raise UserError(
                    f"the model sees no object in the example boxes of {label!r}: none of its "
                    f"boxes overlaps with them by {MIN_IOU}"
                )
        rows = {label: self(torch.stack(found)) for label, found in of_box.items()}
        return rows, {label: len(found) for label, found in of_box.items()}


@torch.no_grad()
def regions_of(predictor: OpenVocabularyPredictor, one: ExampleImage) -> list[tuple[str, Tensor]]:
    """The label and the (P, D) regions, on the CPU, of each box in which the model sees an object.

    Raises:
        UserError: the image cannot be read.
    """
    model = predictor.model
    pixels = read_image(one.image)
    sample = {"image": predictor.resized(pixels)}
    outputs = model.encode_images(model.preprocess_image([sample]))
    height, width = outputs.image_sizes[0]
    scale = one.boxes.new_tensor([width / pixels.shape[1], height / pixels.shape[0]] * 2)
    chosen = matching(outputs, one.boxes * scale)
    return [
        (label, outputs.regions[0, of_box].float().cpu())
        for label, of_box in zip(one.labels, chosen, strict=True)
        if of_box.any()
    ]


def matching(outputs: HeadOutputs, boxes: Tensor) -> Tensor:
    """(N, K) bool: which regions of the first image describe each of N boxes.

    Args:
        outputs: of the head.
        boxes: (N, 4) XYXY px of the image as the model sees it.
    """
    given = Boxes(boxes.float().reshape(-1, 4).to(outputs.boxes.device))
    return pairwise_iou(given, Boxes(outputs.boxes[0])) >= MIN_IOU


def with_rows(vocabulary: Vocabulary, rows: Mapping[str, Tensor]) -> Vocabulary:
    """An encoded vocabulary in which rows of examples take the place of the text of their labels.

    A calibration and thresholds, which were for other rows, are dropped.

    Args:
        vocabulary: has all these labels.
        rows: label -> (D,) unit-length row.
    """
    assert vocabulary.embeddings is not None
    parts = vocabulary.embeddings.split([len(prompts) for prompts in vocabulary.prompts])
    embeddings = torch.cat(
        [
            rows[label][None] if label in rows else part
            for label, part in zip(vocabulary.labels, parts, strict=True)
        ]
    )
    prompts = tuple(
        ((),) if label in rows else own
        for label, own in zip(vocabulary.labels, vocabulary.prompts, strict=True)
    )
    return replace(
        vocabulary, prompts=prompts, embeddings=embeddings, thresholds=None, calibration=None
    )

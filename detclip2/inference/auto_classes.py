"""The auto classes of transformers for the models of this package, and a pipeline in one pass.

`register` makes ``AutoConfig``, ``AutoModelForZeroShotObjectDetection`` and ``AutoProcessor`` know
model folders with a ``config.json``, which those that ship and those on the hub have. Then tools
that load by these classes work. No code of a repository runs: the classes are those of this file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BatchFeature,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY, ZeroShotObjectDetectionPipeline
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import ModelOutput

from detclip2.config import InferenceSettings, inference_settings, load_model_config
from detclip2.data.io.image import read_image
from detclip2.data.text.names import check_names
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.publish import MODEL_TYPE
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError
from detclip2.utils.hub import model_folder
from detclip2.utils.model_folder import read_model_folder

TASK = "open-vocabulary-object-detection"
"""The task of `OnePassPipeline`. That of transformers, zero-shot-object-detection, calls a model
once for each label."""
FLOOR = 0.05
"""The least score of an output; the post-processing raises it."""
_VOCABULARIES_KEPT = 8
_END_OF_NAME = 0  # UTF-8 has no such byte in a name

Model = str | os.PathLike[str]


@dataclass
class DetectionOutput(ModelOutput):
    """The detections of B images, best first, at most N of an image."""

    scores: Tensor | None = None
    """(B, N) in [0, 1]; 0 where an image has fewer."""
    classes: Tensor | None = None
    """(B, N) positions in the names of the image; -1 where it has fewer."""
    boxes: Tensor | None = None
    """(B, N, 4) XYXY as fractions of the image."""
    input_ids: Tensor | None = None
    """(B, T) the names, see `encoded_names`."""


def encoded_names(names: Sequence[Sequence[str]]) -> Tensor:
    """(B, T) int64: the names of B images as bytes of UTF-8, each followed by a zero.

    Tools take the text of a model's inputs for tensors; so names come back as they were written.
    """
    rows = [
        torch.tensor([b for name in of_image for b in (*name.encode(), _END_OF_NAME)])
        for of_image in names
    ]
    return pad_sequence(rows, batch_first=True, padding_value=_END_OF_NAME)


def decoded_names(input_ids: Tensor) -> list[list[str]]:
    """The names of `encoded_names`."""
    rows = (bytes(row).rstrip(b"\0").split(b"\0") for row in input_ids.tolist())
    return [[name.decode() for name in row] for row in rows]


def post_process_grounded_object_detection(
    _: Any,
    outputs: DetectionOutput,
    input_ids: Tensor | None = None,
    threshold: float | None = None,
    text_threshold: float | None = None,
    target_sizes: Any = None,
    text_labels: Sequence[Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Detections in pixels with the caller's labels; the arguments are those of Grounding DINO.

    Args:
        outputs: of the model.
        input_ids: not needed, as the outputs have them.
        threshold: the least score; None: all that the model gives.
        text_threshold: not used: a label is a whole name, not a choice of its tokens.
        target_sizes: (B, 2) heights and widths of the images, px; None: boxes stay fractions.
        text_labels: the names of each image, instead of those that the outputs have.

    Returns:
        For each image ``scores`` (N,), ``boxes`` (N, 4) XYXY, and N ``labels``, which are
        ``text_labels`` too.
    """
    assert outputs.scores is not None and outputs.classes is not None  # noqa: PT018
    assert outputs.boxes is not None and outputs.input_ids is not None  # noqa: PT018
    names = text_labels or decoded_names(outputs.input_ids)
    found = []
    for b, (scores, classes, boxes) in enumerate(
        zip(outputs.scores, outputs.classes, outputs.boxes, strict=True)
    ):
        kept = (classes >= 0) & (scores >= (threshold or 0))
        if target_sizes is not None:
            height, width = map(float, target_sizes[b])
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        labels = [names[b][c] for c in classes[kept].tolist()]
        found.append({"scores": scores[kept], "boxes": boxes[kept], "labels": labels})
        found[-1]["text_labels"] = labels
    return found


class DetCLIP2Config(PretrainedConfig):
    """The ``config.json`` of a model folder; config.yaml describes the model."""

    model_type = MODEL_TYPE
    # Tools such as SAHI know a detector of names by this method of config, model and processor.
    post_process_grounded_object_detection = post_process_grounded_object_detection


class DetCLIP2ForObjectDetection(PreTrainedModel):
    """A model for the auto classes; `from_pretrained` makes one.

    Args:
        config: of transformers.
        predictor: holds the model.
    """

    config_class = DetCLIP2Config
    main_input_name = "pixel_values"
    post_process_grounded_object_detection = post_process_grounded_object_detection

    def __init__(self, config: DetCLIP2Config, predictor: OpenVocabularyPredictor) -> None:
        super().__init__(config)
        self.detector = predictor.model
        self._predictor = predictor
        self._vocabularies: dict[tuple[str, ...], Any] = {}
        self.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        model: Model,
        *_: Any,
        config: DetCLIP2Config | None = None,
        revision: str | None = None,
        device_map: str | torch.device | None = None,
        **options: Any,
    ) -> "DetCLIP2ForObjectDetection":
        """Load a model folder, here or on the hub, in full precision.

        Args:
            model: see `OpenVocabularyPredictor.from_pretrained`.
            config: of transformers.
            revision: see there.
            device_map: a device; None: the processor.
            **options: other options of transformers have no effect.

        Raises:
            UserError: as `OpenVocabularyPredictor.from_pretrained`.
        """
        predictor = OpenVocabularyPredictor.from_pretrained(
            model, revision, device=device_map or "cpu"
        )
        return cls(config or DetCLIP2Config(), predictor)

    @torch.no_grad()
    def forward(
        self, pixel_values: Tensor, image_sizes: Tensor, input_ids: Tensor, **_: Any
    ) -> DetectionOutput:
        """Detect the names of each of B images, all in one pass.

        Args:
            pixel_values: (B, 3, H, W) RGB in 0..255, padded.
            image_sizes: (B, 2) heights and widths without padding, px.
            input_ids: (B, T), see `encoded_names`.
        """
        names = decoded_names(input_ids)
        sizes = image_sizes.tolist()
        samples = [
            {"image": image[:, :height, :width], "vocabulary": self._vocabulary(tuple(of_image))}
            for image, (height, width), of_image in zip(pixel_values, sizes, names, strict=True)
        ]
        thresholds = DetectionThresholds(score_threshold=FLOOR)
        found = self.detector.inference(
            samples, thresholds=thresholds.or_else(self._predictor.thresholds)
        )
        boxes = [
            one.pred_boxes.tensor / one.pred_boxes.tensor.new_tensor([width, height] * 2)
            for one, (height, width) in zip(found, sizes, strict=True)
        ]
        return DetectionOutput(
            scores=pad_sequence([one.scores for one in found], True),
            classes=pad_sequence([one.pred_classes for one in found], True, -1),
            boxes=pad_sequence(boxes, True),
            input_ids=input_ids,
        )

    def _vocabulary(self, names: tuple[str, ...]) -> Any:
        """The prepared vocabulary of some names; the last few are kept."""
        if names not in self._vocabularies:
            if len(self._vocabularies) == _VOCABULARIES_KEPT:
                del self._vocabularies[next(iter(self._vocabularies))]
            encoded = self._predictor.encode(names)
            self._vocabularies[names] = self.detector.prepare_vocabulary(encoded)
        return self._vocabularies[names]


class DetCLIP2Processor(ProcessorMixin):
    """Images and names to tensors, and tensors to detections.

    Of transformers' class, which pipelines ask for, it uses nothing.

    Args:
        settings: the sizes of images.
    """

    post_process_grounded_object_detection = post_process_grounded_object_detection
    resized: Any = OpenVocabularyPredictor.resized  # reads `settings` alone

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        """The sizes of images."""
        return f"{type(self).__name__}({self.settings})"

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, model: Model, *_: Any, revision: str | None = None, **options: Any
    ) -> "DetCLIP2Processor":
        """The processor of a model folder; see `DetCLIP2ForObjectDetection.from_pretrained`."""
        config, _weights = read_model_folder(model_folder(model, revision))
        return cls(inference_settings(*load_model_config(config)))

    def __call__(
        self, images: Any = None, text: Any = None, return_tensors: str = "pt", **_: Any
    ) -> BatchFeature:
        """The inputs of the model.

        Args:
            images: an image as `read_image` takes it, or a list of B.
            text: names, as a list for all images or a list for each; or a text in which full stops
                separate them, as Grounding DINO's: "a cat. a remote control."
            return_tensors: "pt".

        Raises:
            UserError: an image cannot be read, there are no names, or not a list for each image.
        """
        listed = list(images) if isinstance(images, list | tuple) else [images]
        pixels = [self.resized(read_image(image)) for image in listed]
        sizes = torch.tensor([image.shape[1:] for image in pixels])
        height, width = sizes.amax(dim=0).tolist()
        padded = torch.zeros(len(pixels), 3, height, width)
        for target, image in zip(padded, pixels, strict=True):
            target[:, : image.shape[1], : image.shape[2]] = image
        names = _names_of(text, len(listed))
        inputs = {"pixel_values": padded, "image_sizes": sizes, "input_ids": encoded_names(names)}
        return BatchFeature(inputs)


def _names_of(text: Any, images: int) -> list[list[str]]:
    """The names of each image."""
    if isinstance(text, str):
        text = [name for part in text.split(".") if (name := part.strip())]
    is_flat = isinstance(text, list | tuple) and all(isinstance(one, str) for one in text)
    if is_flat:
        text = [text] * images
    if not isinstance(text, list | tuple) or len(text) != images:
        raise UserError(f"text: expected names, or a list of names for each of {images} images")
    return [[entry[0] for entry in check_names(_split(of_image))] for of_image in text]


def _split(names: Any) -> Any:
    return (
        [part.strip() for part in names.split(".") if part.strip()]
        if isinstance(names, str)
        else names
    )


class OnePassPipeline(ZeroShotObjectDetectionPipeline):
    """transformers' pipeline of zero-shot detection, with all labels of an image in one pass."""

    _load_processor = True
    _load_image_processor = False
    _load_tokenizer = False

    def __init__(self, **kwargs: Any) -> None:
        ChunkPipeline.__init__(self, **kwargs)  # without a check of the classes it knows

    def preprocess(  # type: ignore[override]
        self, inputs: dict[str, Any], timeout: float | None = None
    ) -> Any:
        """The inputs of the model, and the size of the image, px."""
        image: Image = load_image(inputs["image"], timeout=timeout)
        labels = inputs["candidate_labels"]
        labels = labels.split(",") if isinstance(labels, str) else list(labels)
        processor: Any = self.processor
        yield {
            "is_last": True,
            "target_size": torch.tensor([[image.height, image.width]]),
            **processor(images=image, text=[label.strip() for label in labels]),
        }

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        more = {key: model_inputs.pop(key) for key in ("is_last", "target_size")}
        return {**more, "outputs": self.model(**model_inputs)}

    def postprocess(  # type: ignore[override]
        self, model_outputs: list[dict[str, Any]], threshold: float = 0.1, top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """``score``, ``label`` and ``box`` of each detection, best first."""
        [one] = model_outputs
        processor: Any = self.processor
        [found] = processor.post_process_grounded_object_detection(
            one["outputs"], threshold=threshold, target_sizes=one["target_size"]
        )
        columns = zip(found["scores"].tolist(), found["labels"], found["boxes"], strict=True)
        return [
            {"score": score, "label": label, "box": self._get_bounding_box(box)}
            for score, label, box in columns
        ][:top_k]


def register() -> None:
    """Register the classes of this file with transformers; a second call changes nothing."""
    AutoConfig.register(MODEL_TYPE, DetCLIP2Config, exist_ok=True)
    AutoModelForZeroShotObjectDetection.register(
        DetCLIP2Config, DetCLIP2ForObjectDetection, exist_ok=True
    )
    AutoProcessor.register(DetCLIP2Config, DetCLIP2Processor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=OnePassPipeline,
            pt_model=AutoModelForZeroShotObjectDetection,
            type="multimodal",
        )

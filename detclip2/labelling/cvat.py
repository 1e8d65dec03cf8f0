"""A function of CVAT's automatic annotation: what a model finds, as rectangles of a task.

    cvat-cli task auto-annotate 7 --function-module detclip2.labelling.cvat \
        -p model=str:photo_nano -p names=str:"person, traffic light"

It needs the extra ``cvat`` (cvat-sdk), and cvat-cli for the command.
"""

from typing import Any

import cvat_sdk.auto_annotation as cvataa
from PIL import Image

from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.tiles import TiledPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError


def create(
    names: str = "",
    vocabulary: str = "",
    model: str = "",
    device: str = "",
    score_threshold: float | None = None,
    tile: int = 0,
) -> "DetectionFunction":
    """Make the function; CVAT calls this with the parameters of ``-p``.

    Args:
        names: names separated by commas; or ...
        vocabulary: ... a saved vocabulary (.safetensors), a file of names, or a built-in list.
        model: a model folder, or the name of one that ships; "": the default model.
        device: "cpu", "cuda", ...; "": the GPU if there is one.
        score_threshold: of the detections; None: the model's. CVAT's own limit counts too.
        tile: side of tiles for small things in large images, px; 0: none.

    Raises:
        UserError: there are no names, or both ways to give them; the model cannot be loaded.
    """
    if bool(names) == bool(vocabulary):
        raise UserError("give -p names=str:... or -p vocabulary=str:..., one of them")
    predictor = OpenVocabularyPredictor(
        model or None, device=device or None, score_threshold=score_threshold
    )
    builtin = vocabulary in BUILTIN_NAMES
    predictor.set_vocabulary(Vocabulary.builtin(vocabulary) if builtin else vocabulary or names)
    return DetectionFunction(predictor, tile)


class DetectionFunction:
    """What CVAT calls for each image.

    Args:
        predictor: with a vocabulary, whose labels are matched with those of the task by CVAT.
        tile: side of tiles, px; 0: none.
    """

    def __init__(self, predictor: OpenVocabularyPredictor, tile: int = 0) -> None:
        assert predictor.vocabulary is not None
        self._detect: Any = TiledPredictor(predictor, tile) if tile else predictor
        labels = predictor.vocabulary.labels
        self._spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(label, number, type="rectangle")
                for number, label in enumerate(labels)
            ]
        )

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The labels, exactly as they were written."""
        return self._spec

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[Any]:
        """The rectangles in an image, best first."""
        found = self._detect(image, score_threshold=context.conf_threshold)
        boxes = found.pred_boxes.tensor.tolist()
        return [
            cvataa.rectangle(label, box)
            for label, box in zip(found.pred_classes.tolist(), boxes, strict=True)
        ]

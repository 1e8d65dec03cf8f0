"""The region that each noun phrase of a caption chooses in an image, as in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.inference.predictor import Labels, OpenVocabularyPredictor
from detclip2.modeling.protocol import ExplainableModel
from detclip2.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Explanation:
    """The region that each of M phrases of a caption chooses, and its similarity over the image."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    caption: str
    phrases: list[str]
    """M phrases, in the order of the caption."""
    boxes: np.ndarray
    """(M, 4) XYXY px of the image: the chosen regions."""
    scores: np.ndarray
    """(M,) in [0, 1]: sigmoid of the similarity S of the chosen region and the phrase."""
    heat: np.ndarray
    """(M, h, w) in [0, 1], over the image as the model sees it, h x w px: at each pixel the sigmoid
    of S, the highest of all levels of the pyramid."""

    def instances(self) -> Instances:
        """The regions as detections, one for each phrase, to draw or convert."""
        return Instances(
            self.image.shape[:2],
            pred_boxes=Boxes(torch.from_numpy(self.boxes)),
            scores=torch.from_numpy(self.scores),
            pred_classes=torch.arange(len(self.phrases)),
            labels=Labels(self.phrases),
        )


@torch.no_grad()
def explain(
    predictor: OpenVocabularyPredictor,
    image: ImageSource,
    caption: str,
    phrases: Sequence[str] | None = None,
) -> Explanation:
    """Let the phrases of a caption choose their regions, as in training (sec. 3.2).

    The proposals and the similarity are those of the model's own contrast, or of the default one if
    it has none. The whole caption takes part in choosing proposals, as in training, but is not
    reported. Unlike in training, the image has its size of inference.

    A model that reads names (GLIP) reads the caption whole. Its regions are those of detections,
    of all anchors the best by the probability of a phrase's tokens and the centerness; the heat is
    the probability.

    Args:
        predictor: its model is an `ExplainableModel`.
        image: see `read_image`.
        caption: a sentence about the image.
        phrases: phrases to use instead of the caption's noun phrases.

    Raises:
        UserError: the caption is empty, without noun phrases, or longer than the model reads; the
            image cannot be read; the model has no text tower, or finds no region.
    """
    model: ExplainableModel = predictor.model
    sample, phrases = _sample_of_texts(model, caption, phrases)
    pixels = read_image(image)
    sample["image"] = predictor.resized(pixels)
    text = model.encode_text([sample])
    outputs = model.encode_images(model.preprocess_image([sample]), text)
    chosen, found = model.chosen_regions(outputs, text)
    if not found.item():
        raise UserError("the model proposes no region in this image: its weights may be broken")

    column_of = {phrase.casefold(): m for m, phrase in enumerate(sample["phrases"])}
    mine = torch.tensor([column_of[phrase.casefold()] for phrase in phrases], device=chosen.device)
    region = chosen[mine, 0]
    similarity = model.similarity(outputs, text)[0, :, mine].float().sigmoid()  # (K, M)
    height, width = outputs.image_sizes[0]
    scale = np.array([pixels.shape[1] / width, pixels.shape[0] / height], np.float32)
    return Explanation(
        image=pixels,
        caption=sample["caption"],
        phrases=phrases,
        boxes=outputs.boxes[0, region].float().cpu().numpy() * np.tile(scale, 2),
        scores=similarity.gather(0, region[None]).squeeze(0).cpu().numpy(),
        heat=heat_maps(similarity, outputs.anchors, (height, width)).cpu().numpy(),
    )


def heat_maps(similarity: Tensor, anchors: Sequence[Boxes], size: tuple[int, int]) -> Tensor:
    """Interpolate the similarities of locations over the image.

    Values are interpolated between the centres of locations; the highest of all levels counts.

    Args:
        similarity: (K, M) of K locations, all levels, finest first.
        anchors: one entry a level, row by row, with the centres of the locations, px.
        size: height and width of the image, px.

    Returns:
        (M, h, w), for an image of h x w px.
    """
    height, width = size
    heat = similarity.new_full((similarity.shape[1], height, width), -torch.inf)
    for level, centers in zip(
        similarity.split([len(level) for level in anchors]),
        [level.get_centers() for level in anchors],
        strict=True,
    ):
        columns = int((centers[:, 1] == centers[0, 1]).sum())
        stride = int(2 * centers[0, 0])  # the first location has half a stride to its left
        grid = level.T.reshape(1, len(heat), -1, columns)
        spread = F.interpolate(grid, scale_factor=stride, mode="bilinear", align_corners=False)
        heat = heat.maximum(spread[0, :, :height, :width])
    return heat


def _sample_of_texts(
    model: ExplainableModel, caption: str, phrases: Sequence[str] | None
) -> tuple[dict[str, Any], list[str]]:
    """A sample with the texts that the model encodes, and the phrases to report."""
    if model.reads_names:
        found = CaptionPhrases.find(caption, phrases)
        model.prepare_vocabulary(found)  # refuses a caption that is too long
        phrases = list(found)
        texts = {"caption": found.caption, "phrase_spans": found.spans, "phrases": phrases}
        return {**texts, "num_positives": len(phrases), "supervision": "grounding"}, phrases
    caption, phrases = _clean_texts(caption, phrases)
    # A phrase that equals the caption is kept once, as in training.
    positives = unique_phrases([caption, *phrases])
    counts = {"num_positives": len(positives), "supervision": "caption"}
    return {"caption": caption, "phrases": positives, **counts}, phrases


def _clean_texts(caption: str, phrases: Sequence[str] | None) -> tuple[str, list[str]]:
    """The cleaned caption and phrases; by default the caption's noun phrases."""
    caption = clean_phrase(caption)
    if not caption:
        raise UserError("the caption is empty: say in a sentence what the image shows")
    found = unique_phrases(extract_noun_phrases(caption) if phrases is None else list(phrases))
    if not found:
        raise UserError(
            f"there is no noun phrase in {caption[:80]!r}: name the things in the image, as in "
            '"a cat on a red chair"'
        )
    return caption, found

"""Which region each noun phrase of a caption chooses: what the word-region contrast sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.sample import clean_phrase, unique_phrases
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.inference.predictor import Labels, OpenVocabularyPredictor
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.text.text_batch import PhraseBatch
from detclip2.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Explanation:
    """For each of M phrases of a caption the region it has chosen, and where else it looked."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    caption: str
    phrases: list[str]
    """M of them, in the order of the caption."""
    boxes: np.ndarray
    """(M, 4) XYXY px of the image: the chosen regions."""
    scores: np.ndarray
    """(M,) in [0, 1]: sigmoid of the similarity S of the chosen region and the phrase."""
    heat: np.ndarray
    """(M, h, w) in [0, 1], over the image as the model has seen it, h x w px: sigmoid of S at each
    place, of the level of the pyramid where it is highest."""

    def instances(self) -> Instances:
        """The regions as detections, one of each phrase, for what draws or converts these."""
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

    The proposals and the similarity are those of the model's own contrast, or of the default one
    for a model without. The whole caption takes part in choosing proposals, as in training, but is
    not reported. Unlike in training the image has the size it has in inference.

    Args:
        predictor: its model is a :class:`~detclip2.modeling.meta_arch.detclipv2.DetCLIPv2`.
        image: see :func:`~detclip2.data.io.image.read_image`.
        caption: what the picture shows, in a sentence.
        phrases: what to look for in place of the caption's noun phrases.

    Raises:
        UserError: the caption is empty or without noun phrases; the image cannot be read; the model
            has no text tower, or finds no region.
    """
    model: Any = predictor.model
    caption, phrases = _words(caption, phrases)
    pixels = read_image(image)
    sample: dict[str, Any] = {"image": predictor.resized(pixels)}
    # Where a phrase is the whole caption, the two are one word, as in training.
    sample["phrases"] = unique_phrases([caption, *phrases])
    sample["num_positives"] = len(sample["phrases"])
    batch = PhraseBatch.from_samples([sample])
    words = model.encode_phrases(batch.phrases)

    images = model.preprocess_images([sample])
    predictions, anchors = model.predict(images)
    boxes = model.decode(predictions, anchors, images)
    contrast = model.contrast or WordRegionContrast()
    chosen, found = contrast.chosen_regions(predictions, boxes, batch, words, model.align)
    if not found.item():
        raise UserError("the model proposes no region in this image: its weights may be broken")

    word_of = {word.casefold(): m for m, word in enumerate(batch.phrases)}
    mine = torch.tensor([word_of[phrase.casefold()] for phrase in phrases], device=chosen.device)
    region = chosen[mine, 0]
    similarity = model.align(predictions.regions[0], words[mine]).float().sigmoid()  # (K, M)
    height, width = images.image_sizes[0]
    scale = np.array([pixels.shape[1] / width, pixels.shape[0] / height], np.float32)
    return Explanation(
        image=pixels,
        caption=caption,
        phrases=phrases,
        boxes=boxes[0, region].float().cpu().numpy() * np.tile(scale, 2),
        scores=similarity.gather(0, region[None]).squeeze(0).cpu().numpy(),
        heat=heat_maps(similarity, anchors, (height, width)).cpu().numpy(),
    )


def heat_maps(similarity: Tensor, anchors: Sequence[Boxes], size: tuple[int, int]) -> Tensor:
    """Spread what is said of locations over the image.

    Between the centres of locations it is interpolated; of the levels the highest value counts.

    Args:
        similarity: (K, M), of K locations on all levels, finest first.
        anchors: of each level, row by row; each has its centre in a location.
        size: height and width of the image, px.

    Returns:
        (M, h, w).
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


def _words(caption: str, phrases: Sequence[str] | None) -> tuple[str, list[str]]:
    """Both clean; the noun phrases of the caption where none are given."""
    caption = clean_phrase(caption)
    if not caption:
        raise UserError("the caption is empty: say in a sentence what the picture shows")
    found = unique_phrases(extract_noun_phrases(caption) if phrases is None else list(phrases))
    if not found:
        raise UserError(
            f"there is no noun phrase in {caption[:80]!r}: name the things in the picture, as in "
            '"a cat on a red chair"'
        )
    return caption, found

"""Word-region contrast: what image-text pairs teach, without a single box (sec. 3.2)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.atss_head import Predictions
from detclip2.modeling.layers.collectives import split_cross_entropy
from detclip2.modeling.losses.text_image_similarity import (
    Texts,
    best_regions,
    image_similarity,
    image_to_text_similarity,
    max_size_box_similarity,
    text_to_image_similarity,
)
from detclip2.modeling.proposals import (
    ProposalScore,
    proposal_scores,
    select_proposals,
    stack_proposals,
)
from detclip2.modeling.text.text_batch import PhraseBatch, gather_phrases
from detclip2.utils.errors import UserError

Matching = Literal["one_to_one", "one_to_many", "largest_box", "whole_image"]
Direction = Literal["text_to_image", "image_to_text", "both"]
Negatives = Literal["global", "local"]


class WordRegionContrast(nn.Module):
    """Pulls an image's regions to the words of its caption, away from those of other captions.

    1. Regions that look like objects are chosen (:mod:`~detclip2.modeling.proposals`).
    2. Each word of each caption of the global batch finds its region in each image
       (:mod:`~detclip2.modeling.losses.text_image_similarity`); the mean over a text's words is
       its similarity s_T to the image (eq. 2-4).
    3. Cross entropy over the images of the global batch: which one is the text's own? (eq. 5)

    Words are the phrases of a sample: the whole caption (first) and its noun phrases.

    Not regions but words are sent between processes. They are some 14 times fewer numbers
    (7 words against 100 regions an image), each process only ever meets its own images, and its
    share of the scores, all texts by local images, grows with the global batch, not its square.

    What the paper leaves open, and what is chosen here:

    - *Normalisation.* By default s_T is made of the very S that detection uses (eq. 1 to 3 have
      one inner product; its bias cancels in the softmax). So the best region of a word is the one
      that would be detected for it, and the contrast moves the score that inference reads. That
      tau = 0.5 is best and 0.07 far worse (Tab. 2e) also speaks for logits rather than cosines,
      for which 0.07 is a customary value. ``cosine=True`` is the other reading.
    - *Denominator.* Eq. 5 is read as in FILIP: text to image runs over images. Image to text is
      FILIP's too: each region seeks its word, and the softmax runs over texts.
    - *Duplicates.* Images whose captions have the same set of words are no negatives of each
      other: they are left out of each other's denominator and label smoothing.
    - Images without usable caption are negatives still; those without any proposal are nothing.

    The loss is divided by the number of usable captions in the global batch and multiplied by
    the number of processes: the mean over processes, which DDP takes of gradients, is the loss of
    one process with the whole batch. Without a usable caption it is 0, and has a gradient of 0.

    Args:
        num_proposals: R, regions an image (Tab. 2d).
        nms_threshold: IoU above which a proposal covers another.
        pre_nms: candidates an image before that.
        proposal_score: what makes a region a proposal (Tab. 2a), see
            :func:`~detclip2.modeling.proposals.proposal_scores`. ``class`` and ``iou`` need a
            head whose ``objectness`` is the same.
        matching: ``one_to_one``: a word has its best region; ``one_to_many``: all, weighted by
            softmax; ``largest_box``: the whole caption has the largest proposal (Tab. 2b);
            ``whole_image``: the whole caption has the mean of all proposals, for comparison.
        matching_temperature: tau_t, of ``one_to_many``; the paper gives no value.
        direction: ``text_to_image``, ``image_to_text``, or ``both``: their mean (Tab. 2c).
        temperature: tau (Tab. 2e).
        label_smoothing: share of the target spread evenly over all candidates (Tab. 9).
        weight: lambda of eq. 6.
        negatives: ``global``: from all processes; ``local``: from the process's own batch.
        cosine: compare unit vectors instead of taking S.
        max_elements: most similarities of words and regions to hold at once.

    Raises:
        UserError: an argument is not one of those named.
    """

    def __init__(
        self,
        num_proposals: int = 100,
        nms_threshold: float = 0.6,
        pre_nms: int = 1000,
        proposal_score: ProposalScore = "text_batch",
        matching: Matching = "one_to_one",
        matching_temperature: float = 0.1,
        direction: Direction = "text_to_image",
        temperature: float = 0.5,
        label_smoothing: float = 0.1,
        weight: float = 0.1,
        negatives: Negatives = "global",
        cosine: bool = False,
        max_elements: int = 2**24,
    ) -> None:
        super().__init__()
        _check_choice("proposal_score", proposal_score, get_args(ProposalScore))
        _check_choice("matching", matching, get_args(Matching))
        _check_choice("direction", direction, get_args(Direction))
        _check_choice("negatives", negatives, get_args(Negatives))
        self.num_proposals = num_proposals
        self.nms_threshold = nms_threshold
        self.pre_nms = pre_nms
        self.proposal_score = proposal_score
        self.matching = matching
        self.matching_temperature = matching_temperature
        self.direction = direction
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.weight = weight
        self.negatives = negatives
        self.cosine = cosine
        self.max_elements = max_elements

    def forward(
        self,
        predictions: Predictions,
        boxes: Tensor,
        batch: PhraseBatch,
        phrases: Tensor,
        align: Alignment,
    ) -> dict[str, Tensor]:
        """The loss of a batch of image-text pairs.

        Args:
            predictions: of the head, for B images and K anchors.
            boxes: (B, K, 4) decoded and clipped, XYXY.
            batch: the phrases of the B samples.
            phrases: (M, D) their embeddings.
            align: what makes S of regions and phrases.

        Returns:
            ``loss_contrast``, weighted. The share of texts that prefer their own image, and of
            images their own text, goes to the event storage.
        """
        _, regions, valid, areas = self.regions(predictions, boxes, batch, phrases, align)
        losses = self.contrast(regions, valid, areas, batch, phrases, align)
        return {"loss_contrast": self.weight * losses}

    def regions(
        self,
        predictions: Predictions,
        boxes: Tensor,
        batch: PhraseBatch,
        phrases: Tensor,
        align: Alignment,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The proposals of the images, which the contrast is of; arguments as of :meth:`forward`.

        Returns:
            Their indices (B, R) into the K anchors, embeddings (B, R, D), (B, R) bool: is it a
            proposal, not padding?, and the areas (B, R) of their boxes.
        """
        index, valid = self.propose(predictions, boxes, batch, phrases, align)
        regions = predictions.regions.take_along_dim(index[..., None], dim=1)
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=-1)
        return index, regions, valid, (width * height).take_along_dim(index, dim=1)

    @torch.no_grad()
    def propose(
        self,
        predictions: Predictions,
        boxes: Tensor,
        batch: PhraseBatch,
        phrases: Tensor,
        align: Alignment,
    ) -> tuple[Tensor, Tensor]:
        """Choose R regions in each image; arguments as of :meth:`forward`.

        Returns:
            Indices (B, R) into the K anchors, and (B, R) bool: is it a proposal, not padding?
        """
        proposals = []
        for b in range(len(batch)):  # one by one: (B, K, M) would be far too large
            scores = proposal_scores(
                self.proposal_score,
                align(predictions.regions[b], phrases),
                batch.positives(b),
                predictions.centerness[b],
                None if predictions.objectness is None else predictions.objectness[b],
            )
            proposals.append(
                select_proposals(
                    boxes[b], scores, self.num_proposals, self.nms_threshold, self.pre_nms
                )
            )
        return stack_proposals(proposals, self.num_proposals)

    @torch.no_grad()
    def chosen_regions(
        self,
        predictions: Predictions,
        boxes: Tensor,
        batch: PhraseBatch,
        phrases: Tensor,
        align: Alignment,
    ) -> tuple[Tensor, Tensor]:
        """The one region that each phrase of the batch has in each image, to look at.

        It is chosen among the same proposals and by the same similarity as in training; with
        ``one_to_many`` it is the region of the largest weight. Arguments as of :meth:`forward`.

        Returns:
            Indices (M, B) into the K anchors, and (B,) bool: has the image any proposal?
        """
        index, valid = self.propose(predictions, boxes, batch, phrases, align)
        regions = predictions.regions.take_along_dim(index[..., None], dim=1)
        regions, phrases = self.embed(regions, phrases, align)
        _, chosen = best_regions(phrases, regions, valid)
        return index.gather(1, chosen.T).T, valid.any(dim=1)

    def contrast(
        self,
        regions: Tensor,
        valid: Tensor,
        areas: Tensor,
        batch: PhraseBatch,
        phrases: Tensor,
        align: Alignment,
    ) -> Tensor:
        """Steps 2 and 3, unweighted.

        Args:
            regions: (B, R, D) embeddings of the proposals.
            valid: (B, R) bool, False for padding.
            areas: (B, R) areas of the proposals' boxes.
            batch: the phrases of the B samples.
            phrases: (M, D) their embeddings.
            align: what makes S of regions and phrases.

        Returns:
            A scalar.
        """
        is_candidate = valid.any(dim=1)
        if self.negatives == "global":
            batch, phrases = gather_phrases(batch, phrases)
        words = [
            batch.positives(b).tolist() if usable else []
            for b, usable in enumerate(is_candidate.tolist())
        ]
        everyone = comm.all_gather(words)
        num_usable = sum(bool(text) for share in everyone for text in share)
        first = 0  # the number of this process's first image
        if self.negatives == "global":
            first = sum(len(share) for share in everyone[: comm.get_rank()])
            words = [text for share in everyone for text in share]
        texts = Texts.from_lists(words, regions.device)
        if len(texts) == 0:
            return (0 * regions).sum() + (0 * phrases).sum()
        regions, phrases = self.embed(regions, phrases, align)
        images = first + torch.arange(len(regions), device=regions.device)
        losses = self.losses(regions, valid, areas, phrases, texts, images)
        return losses.sum() * comm.get_world_size() / num_usable

    def embed(self, regions: Tensor, phrases: Tensor, align: Alignment) -> tuple[Tensor, Tensor]:
        """Regions and phrases such that their product is the similarity."""
        if self.cosine:
            regions, phrases = F.normalize(regions, dim=-1), F.normalize(phrases, dim=-1)
        else:
            regions, phrases = align.regions(regions), align.phrases(phrases)
        device = regions.device.type
        if torch.is_autocast_enabled(device):  # once for all chunks
            dtype = torch.get_autocast_dtype(device)
            regions, phrases = regions.to(dtype), phrases.to(dtype)
        return regions, phrases

    def losses(
        self,
        regions: Tensor,
        valid: Tensor,
        areas: Tensor,
        phrases: Tensor,
        texts: Texts,
        images: Tensor,
    ) -> Tensor:
        """The losses of those of the global batch's T texts that belong to ``images`` (B,)."""
        own = texts.image[:, None] == images  # (T, B)
        same_words = texts.group[texts.image][:, None] == texts.group[images]
        candidate = valid.any(dim=1) & (own | ~same_words)

        def scores(seek: Callable[..., Tensor]) -> Tensor:
            if self.matching == "largest_box":
                return max_size_box_similarity(phrases, regions, valid, texts, areas)
            if self.matching == "whole_image":
                return image_similarity(phrases, regions, valid, texts)
            temperature = self.matching_temperature if self.matching == "one_to_many" else None
            return seek(phrases, regions, valid, texts, temperature, self.max_elements)

        losses = []
        if self.direction in ("text_to_image", "both"):
            logits = scores(text_to_image_similarity) / self.temperature
            loss, correct = split_cross_entropy(
                logits, own, candidate, self.label_smoothing, self.negatives == "global"
            )
            _log("contrast/text_to_image_accuracy", correct)
            losses.append(loss[own.any(dim=1)])
        if self.direction in ("image_to_text", "both"):
            has_text = own.any(dim=0)
            logits = scores(image_to_text_similarity) / self.temperature
            loss, correct = split_cross_entropy(
                logits.T[has_text], own.T[has_text], candidate.T[has_text], self.label_smoothing
            )
            _log("contrast/image_to_text_accuracy", correct)
            losses.append(loss)
        return torch.stack(losses).mean(dim=0)


def _log(name: str, correct: Tensor) -> None:
    try:
        storage = get_event_storage()
    except AssertionError:  # not within a training loop
        return
    if len(correct):
        storage.put_scalar(name, correct.float().mean().item())


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"contrast.{name} is {value!r}; expected one of {', '.join(map(repr, choices))}"
        )

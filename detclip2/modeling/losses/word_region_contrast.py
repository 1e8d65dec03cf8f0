"""Word-region contrast: the loss on image-text pairs, which have no boxes (sec. 3.2)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.outputs import HeadOutputs
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
    Proposals,
    ProposalScore,
    proposal_scores,
    select_proposals,
    stack_proposals,
)
from detclip2.modeling.text.text_batch import TextBatch
from detclip2.utils.errors import UserError

Matching = Literal["one_to_one", "one_to_many", "largest_box", "whole_image"]
Direction = Literal["text_to_image", "image_to_text", "both"]
Negatives = Literal["global", "local"]


class WordRegionContrast(nn.Module):
    """Contrast of image-text pairs: the phrases of captions against the regions of all images.

    1. Proposals are chosen in each image (`detclip2.modeling.proposals`).
    2. Each phrase of each caption of the global batch chooses a region in each image
       (`detclip2.modeling.losses.text_image_similarity`); the mean over a text's phrases is its
       similarity s_T to the image (eq. 2-4).
    3. Cross entropy over the images of the global batch, with the text's own as target (eq. 5).

    The phrases of a text, the paper's words, are the positive phrases of a sample: the whole
    caption (first) and its noun phrases.

    Processes exchange phrases, not regions: about 14 times fewer numbers (7 phrases against 100
    regions an image). Each process only reads its own images, and its share of the scores, all
    texts by local images, grows with the global batch, not its square.

    The paper leaves these points open:

    - *Normalisation.* By default s_T comes from S as detection uses it (eq. 1 to 3 have one
      inner product; its bias cancels in the softmax). The best region of a phrase is then the one
      detected for it, and the contrast trains the score that inference reads. The best tau, 0.5,
      far better than 0.07 (Tab. 2e), also suggests logits rather than cosines, for which 0.07 is
      usual. ``cosine=True`` is the other reading.
    - *Denominator.* It is as in FILIP: from text to image, the softmax runs over images; from
      image to text, each region chooses its phrase, and the softmax runs over texts.
    - *Duplicates.* Images whose captions have the same set of phrases are not negatives of each
      other: each is skipped in the other's denominator and label smoothing.
    - Images without a usable caption are still negatives; those without a proposal are skipped.

    The loss is divided by the number of usable captions in the global batch and multiplied by
    the number of processes: the mean over processes, which DDP takes of gradients, is the loss of
    one process with the whole batch. Without a usable caption, loss and gradient are 0.

    Args:
        num_proposals: R, regions an image (Tab. 2d).
        nms_threshold: IoU above which the lower-scored proposal is dropped.
        pre_nms: regions an image that enter the suppression.
        proposal_score: how proposals are scored (Tab. 2a), see `proposal_scores`. ``class`` and
            ``iou`` need a head with the same ``objectness``.
        matching: ``one_to_one``: a phrase matches its best region; ``one_to_many``: all regions,
            weighted by softmax; ``largest_box``: the whole caption matches the largest proposal
            (Tab. 2b); ``whole_image``: it matches the mean of all proposals, for comparison.
        matching_temperature: tau_t, of ``one_to_many``; the paper gives no value.
        direction: ``text_to_image``, ``image_to_text``, or ``both``: their mean (Tab. 2c).
        temperature: tau (Tab. 2e).
        label_smoothing: share of the target spread evenly over all candidates (Tab. 9).
        weight: lambda of eq. 6.
        negatives: ``global``: from all processes; ``local``: from the process's own batch.
        cosine: compare unit vectors instead of taking S.
        max_elements: maximum similarities of phrases and regions in memory at once.

    Raises:
        UserError: an argument is not one of its choices.
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

    def forward(self, outputs: HeadOutputs, text: TextBatch, align: Alignment) -> dict[str, Tensor]:
        """The loss of a batch of image-text pairs.

        Args:
            outputs: of the head, for B images and K anchors.
            text: the M phrases of the B samples of this process.
            align: computes S.

        Returns:
            ``loss_contrast``, weighted. The accuracies of texts that choose images, and of images
            that choose texts, go to the event storage.
        """
        return self.losses(self.regions(outputs, text, align), text, align)

    def losses(self, proposals: Proposals, text: TextBatch, align: Alignment) -> dict[str, Tensor]:
        """Steps 2 and 3, for the proposals of the B images; see `forward`."""
        return {"loss_contrast": self.weight * self.contrast(proposals, text, align)}

    def regions(self, outputs: HeadOutputs, text: TextBatch, align: Alignment) -> Proposals:
        """Step 1: the proposals of the B images; see `forward`."""
        index, valid = self.propose(outputs, text, align)
        regions = outputs.regions.take_along_dim(index[..., None], dim=1)
        width, height = (outputs.boxes[..., 2:] - outputs.boxes[..., :2]).unbind(dim=-1)
        return Proposals(regions, index, valid, (width * height).take_along_dim(index, dim=1))

    @torch.no_grad()
    def propose(
        self, outputs: HeadOutputs, text: TextBatch, align: Alignment
    ) -> tuple[Tensor, Tensor]:
        """Choose R regions in each image; arguments as in `forward`.

        Returns:
            (B, R) int64 indices into the K anchors, and (B, R) bool, False for padding.
        """
        proposals = []
        for b in range(len(text)):  # one by one: (B, K, M) would be far too large
            scores = proposal_scores(
                self.proposal_score,
                align(outputs.regions[b], text.embeddings),
                text.positives(b),
                outputs.centerness[b],
                None if outputs.objectness is None else outputs.objectness[b],
            )
            proposals.append(
                select_proposals(
                    outputs.boxes[b], scores, self.num_proposals, self.nms_threshold, self.pre_nms
                )
            )
        return stack_proposals(proposals, self.num_proposals)

    @torch.no_grad()
    def chosen_regions(
        self, outputs: HeadOutputs, text: TextBatch, align: Alignment
    ) -> tuple[Tensor, Tensor]:
        """The region that each phrase chooses in each image, for inspection.

        It is chosen among the same proposals and by the same similarity as in training; for
        ``one_to_many`` it is the region with the largest weight. Arguments as in `forward`.

        Returns:
            (M, B) int64 indices into the K anchors, and (B,) bool: whether an image has a proposal.
        """
        regions, index, valid, _ = self.regions(outputs, text, align)
        regions, phrases = self.embed(regions, text.embeddings, align)
        _, chosen = best_regions(phrases, regions, valid)
        return index.gather(1, chosen.T.long()).T, valid.any(dim=1)

    def contrast(self, proposals: Proposals, text: TextBatch, align: Alignment) -> Tensor:
        """Steps 2 and 3, without the weight.

        Args:
            proposals: of the B images.
            text: the M phrases of the B samples of this process.
            align: computes S.

        Returns:
            A scalar.
        """
        regions, _, valid, areas = proposals
        has_proposal = valid.any(dim=1)
        words = [
            text.positives(b).tolist() if usable else []
            for b, usable in enumerate(has_proposal.tolist())
        ]
        first = 0  # index of this process's first image
        if self.negatives == "global":
            text, everyone = text.gather_with(words)
            first = sum(len(share) for share in everyone[: comm.get_rank()])
            words = [caption for share in everyone for caption in share]
            num_usable = _usable(words)
        else:
            num_usable = sum(comm.all_gather(_usable(words)))
        texts = Texts.from_lists(words, regions.device)
        if len(texts) == 0:
            return (0 * regions).sum() + (0 * text.embeddings).sum()
        regions, phrases = self.embed(regions, text.embeddings, align)
        images = first + torch.arange(len(regions), device=regions.device)
        losses = self.losses_of_texts(regions, valid, areas, phrases, texts, images)
        return losses.sum() * comm.get_world_size() / num_usable

    def embed(self, regions: Tensor, phrases: Tensor, align: Alignment) -> tuple[Tensor, Tensor]:
        """(B, R, D) regions and (M, D) phrases -> the same shapes, as they enter the product."""
        if self.cosine:
            regions, phrases = F.normalize(regions, dim=-1), F.normalize(phrases, dim=-1)
        else:
            regions, phrases = align.regions(regions), align.phrases(phrases)
        device = regions.device.type
        if torch.is_autocast_enabled(device):  # once for all chunks
            dtype = torch.get_autocast_dtype(device)
            regions, phrases = regions.to(dtype), phrases.to(dtype)
        return regions, phrases

    def losses_of_texts(
        self,
        regions: Tensor,
        valid: Tensor,
        areas: Tensor,
        phrases: Tensor,
        texts: Texts,
        images: Tensor,
    ) -> Tensor:
        """Losses of those texts of the global batch that belong to this process's images.

        Args:
            regions: (B, R, D) proposals, from `embed`.
            valid: (B, R) bool, False for padding.
            areas: (B, R) areas of the proposals' boxes, px^2.
            phrases: (M, D), from `embed`.
            texts: the texts of the global batch.
            images: (B,) int64 indices of the images in the global batch.

        Returns:
            One loss for each text of the B images.
        """
        own = texts.image[:, None] == images  # (U, B)
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


def _usable(words: list[list[int]]) -> int:
    """How many captions have phrases."""
    return sum(bool(caption) for caption in words)


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

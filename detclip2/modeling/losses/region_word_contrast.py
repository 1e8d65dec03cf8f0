"""Region-word contrast between images: L_inter of GLIPv2 (arXiv 2206.05836, sec. 3.2)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from detclip2.modeling.heads.atss_head import join_levels
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.layers.collectives import all_gather_with_grad
from detclip2.modeling.losses.detection import Targets
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError


class BoxedRegions(NamedTuple):
    """R positive anchors of each of B images: see `ContrastRegions`."""

    regions: Tensor
    """(B, R, C) features of the pyramid, before fusion, with gradient."""
    anchor: Tensor
    """(B, R) int64 indices into the K anchors; 0 for padding."""
    valid: Tensor
    """(B, R) bool, False for padding."""
    tokens_of: Tensor
    """(B, R, T) bool: the tokens of the own caption that name the region."""
    fused: Tensor
    """(B, T, width) fused states of the tokens, with gradient; (B, R, 0) if they are not read."""

    @staticmethod
    def join(parts: Sequence["BoxedRegions"]) -> "BoxedRegions":
        """Those of all images of a batch."""
        return BoxedRegions(*map(torch.cat, zip(*parts, strict=True)))

    def with_gradient(self) -> list[Tensor]:
        """See `ContrastRegions`."""
        return [self.regions, self.fused] if self.fused.numel() else [self.regions]

    def again(self, outputs: HeadOutputs, part: slice) -> list[Tensor]:
        """See `ContrastRegions`."""
        regions = _features_at(outputs, self.anchor[part])
        if not self.fused.numel():
            return [regions]
        return [regions, _fused_tokens(outputs)]


class Names(NamedTuple):
    """The names of regions and tokens as numbers below N, the same in all processes."""

    of_regions: Tensor
    """(regions, N + 1) bool, the last column False."""
    of_tokens: Tensor
    """(tokens,) int64, N for a token of no name."""

    @property
    def number(self) -> int:
        """N."""
        return self.of_regions.shape[1] - 1

    def same(self, regions: Tensor | slice, tokens: Tensor | slice) -> Tensor:
        """(regions, tokens) bool: whether some regions have the names of some tokens."""
        return self.of_regions[regions][:, self.of_tokens[tokens]]


class RegionWordContrast(nn.Module):
    """Contrast of regions and words of all images of the global batch, in both directions.

    S = <W_v O, W_l P> / tau of unit vectors, for the regions O of boxes and the tokens P of all
    captions. The loss is the cross entropy of each region over all tokens, and of each token that
    names a region over all regions. A region's targets are

    - the tokens of its own caption that name it, and
    - the tokens of the same name in other captions, if both captions are lists of names: what a
      sentence says is said of one image.

    What of the paper could be read gives these. The rest (projections, temperature, the limit of
    regions, the divisor) is that of code for such a loss in GLIP's repository, which no released
    config uses. That code never takes the anchors of an image's first box; here they are taken.

    Processes exchange regions and tokens as `width` numbers each. Each computes the rows of its own
    regions and tokens. The loss is divided by the regions of the global batch and multiplied by
    the number of processes, so that the mean over processes, which DDP takes of gradients, is the
    loss of one process with the whole batch. Without a region, loss and gradient are 0.

    Args:
        image_width: C, channels of the pyramid.
        text_width: channels of a token.
        width: of the space in which both are compared.
        num_regions: R, maximum positive anchors of an image, chosen at random.
        temperature: tau at the start; it is learned.
        propagate: whether names have targets in other captions.
        fused_text: whether tokens are those after fusion, as in that code, or before, as in the
            paper. Regions are always from before.
        weight: of the loss.
        max_elements: maximum similarities in memory at once.
    """

    def __init__(
        self,
        image_width: int = 256,
        text_width: int = 768,
        width: int = 64,
        num_regions: int = 100,
        temperature: float = 1.0,
        propagate: bool = True,
        fused_text: bool = False,
        weight: float = 1.0,
        max_elements: int = 2**24,
    ) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, width)
        self.text = nn.Linear(text_width, width)
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.num_regions = num_regions
        self.propagate = propagate
        self.fused_text = fused_text
        self.weight = weight
        self.max_elements = max_elements

    def regions(self, outputs: HeadOutputs, targets: Targets, text: TokenBatch) -> BoxedRegions:
        """Choose the regions of B images among their positive anchors.

        Args:
            outputs: of the head, for B images and K anchors, with ``pyramid``.
            targets: their positive anchors, and the tokens that match these.
            text: the B captions.
        """
        size, device = (len(outputs), self.num_regions), text.mask.device
        anchor = torch.zeros(size, dtype=torch.int64, device=device)
        valid = torch.zeros(size, dtype=torch.bool, device=device)
        tokens_of = torch.zeros(*size, text.mask.shape[1], dtype=torch.bool, device=device)
        image_of_pair, anchor_of_pair, token_of_pair = targets.pairs
        for b in range(len(outputs)):
            chosen = targets.anchor[targets.image == b]
            if len(chosen) > self.num_regions:
                chosen = chosen[torch.randperm(len(chosen))[: self.num_regions].to(device)]
            anchor[b, : len(chosen)] = chosen
            valid[b, : len(chosen)] = True
            own = image_of_pair == b
            row, pair = (chosen[:, None] == anchor_of_pair[own]).nonzero(as_tuple=True)
            tokens_of[b, row, token_of_pair[own][pair]] = True
        return BoxedRegions(
            regions=_features_at(outputs, anchor),
            anchor=anchor,
            valid=valid,
            tokens_of=tokens_of,
            fused=_fused_tokens(outputs) if self.fused_text else _nothing(outputs, size),
        )

    def losses(self, regions: BoxedRegions, text: TokenBatch) -> dict[str, Tensor]:
        """``loss_inter``, weighted; a collective operation.

        Args:
            regions: of the B images of this process.
            text: their captions.
        """
        with torch.autocast(text.mask.device.type, enabled=False):
            return {"loss_inter": self.weight * self.contrast(regions, text)}

    def contrast(self, regions: BoxedRegions, text: TokenBatch) -> Tensor:
        """The loss without its weight, a scalar; arguments as in `losses`."""
        dtype = self.image.weight.dtype
        states = regions.fused if self.fused_text else text.embeddings
        own_regions = self.image(regions.regions[regions.valid].to(dtype))
        own_tokens = self.text(states[text.mask].to(dtype))
        all_regions = all_gather_with_grad(F.normalize(own_regions, dim=-1))  # of the global batch
        all_tokens = all_gather_with_grad(F.normalize(own_tokens, dim=-1))
        if len(all_regions) == 0:
            return 0 * (own_regions.sum() + own_tokens.sum())
        names, region, token = self._names(regions, text)
        total = 0 * (all_regions.sum() + all_tokens.sum())  # a process without regions takes part
        for b, (mask, valid) in enumerate(zip(text.mask, regions.valid, strict=True)):
            of_image = torch.arange(region, region := region + int(valid.sum()))
            of_caption = torch.arange(token, token := token + int(mask.sum()))
            own = regions.tokens_of[b][valid][:, mask]  # (regions, tokens) of the image
            named = own.any(dim=0) | (names.of_tokens[of_caption] < names.number)
            total = (
                total
                + self._summed(all_regions, of_image, all_tokens, of_caption, own, names.same)
                + self._summed(
                    all_tokens,
                    of_caption[named.cpu()],
                    all_regions,
                    of_image,
                    own.T[named],
                    lambda t, r: names.same(r, t).T,
                )
            )
        return total / 2 / len(all_regions) * comm.get_world_size()

    def _summed(
        self,
        x: Tensor,
        rows: Tensor,
        y: Tensor,
        own_columns: Tensor,
        own_targets: Tensor,
        same_name: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        """The sum of the cross entropies of some rows of x over all rows of y.

        Args:
            x: (n, width).
            rows: int64, of one image.
            y: (m, width).
            own_columns: int64, the rows of y that are of the same image.
            own_targets: (rows, own columns) bool.
            same_name: some rows of x, and all of y -> (rows, m) bool.
        """

        def of(rows: Tensor, own_targets: Tensor) -> Tensor:
            targets = same_name(rows, slice(None))
            targets[:, own_columns] = own_targets
            logits = (x[rows] @ y.T) / self.log_temperature.exp()
            number = targets.sum(dim=1)
            right = (logits * targets).sum(dim=1) / number.clamp(min=1)
            return ((logits.logsumexp(dim=1) - right) * (number > 0)).sum()

        total, size = x.new_zeros(()), max(1, self.max_elements // len(y))
        for part, targets in zip(rows.split(size), own_targets.split(size), strict=True):
            total = total + checkpoint(
                of, part, targets, use_reentrant=False, preserve_rng_state=False
            )
        return total

    def _names(self, regions: BoxedRegions, text: TokenBatch) -> tuple[Names, int, int]:
        """The names of the global batch, and this process's first region and token in it.

        Only names that a region has are numbered.
        """
        device = text.mask.device
        phrases = [own.to(device) for own in text.tokens_of]  # (M, T) for each caption
        # For each image (regions, M) bool: the phrases of its regions.
        match = [
            regions.tokens_of[b][regions.valid[b]].float() @ own.T.float() > 0
            for b, own in enumerate(phrases)
        ]
        names = text.names if self.propagate else [[] for _ in phrases]
        spoken = {
            of_caption[m]
            for of_caption, of_regions in zip(names, match, strict=True)
            if of_caption
            for m in of_regions.any(dim=0).nonzero().flatten().tolist()
        }
        shares = comm.all_gather((int(regions.valid.sum()), int(text.mask.sum()), spoken))
        everything = sorted(set().union(*(share for *_, share in shares)))
        number = {name: n for n, name in enumerate(everything)}
        none = len(number)
        of_regions, of_tokens = [], []
        for b, of_caption in enumerate(names):
            of_phrase = [number.get(name, none) for name in of_caption] or [none] * len(phrases[b])
            column = torch.tensor(of_phrase, dtype=torch.int64, device=device)
            one_hot = F.one_hot(column, none + 1) * (torch.arange(none + 1, device=device) < none)
            of_regions.append(match[b].float() @ one_hot.float() > 0)
            # A token has the number of its phrase, and `none` without a phrase.
            marked = F.pad(phrases[b] * (none - column)[:, None], (0, 0, 0, 1))
            of_tokens.append((none - marked.amax(dim=0))[text.mask[b]])
        before = shares[: comm.get_rank()]
        return (
            Names(
                all_gather_with_grad(torch.cat(of_regions).byte()).bool(),
                all_gather_with_grad(torch.cat(of_tokens)),
            ),
            sum(number_of_regions for number_of_regions, *_ in before),
            sum(number_of_tokens for _, number_of_tokens, _ in before),
        )


def _features_at(outputs: HeadOutputs, anchor: Tensor) -> Tensor:
    """(B, R) anchors -> (B, R, C) features of the pyramid."""
    assert outputs.pyramid is not None, "the model does not keep its pyramid"
    return join_levels(outputs.pyramid).take_along_dim(anchor[..., None], dim=1)


def _nothing(outputs: HeadOutputs, size: tuple[int, int]) -> Tensor:
    return outputs.regions.new_zeros(*size, 0)


def _fused_tokens(outputs: HeadOutputs) -> Tensor:
    """(B, T, width).

    Raises:
        UserError: the head fuses nothing.
    """
    if outputs.tokens is None:
        raise UserError(
            "model.region_word_contrast.fused_text is true, but the head does not fuse text: "
            "expected model.head.fuse=true"
        )
    return outputs.tokens

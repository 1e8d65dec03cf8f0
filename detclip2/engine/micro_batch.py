"""Gradients of a batch that is too large for the memory, part by part, exactly.

Losses of boxes are sums over images once their divisors are known, which only the targets decide.
The contrast is no such sum: each text meets the images of the whole global batch. So it is done in
two passes (GradCache, arXiv 2101.06983): the first keeps the region embeddings alone, of which the
loss has its gradient; the second computes them again, part by part, and hands that gradient back.
Phrases are encoded once, for the whole batch, and get their gradient at the end.

What normalises over a batch, as batch normalisation does, sees parts in place of the whole; the
model of the paper has none of it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.text.text_batch import PhraseBatch, gather_phrases
from detclip2.utils.errors import UserError

Sample = dict[str, Any]
Losses = dict[str, Tensor]


class GradientsInParts:
    """The losses of a batch, and their gradients added to those in the parameters.

    Args:
        model: not in DistributedDataParallel: gradients are averaged over processes here.
        autocast: makes the context of the forward passes.
        scale: of a loss, before its backward pass.
    """

    def __init__(
        self,
        model: DetCLIPv2,
        autocast: Callable[[], AbstractContextManager[Any]],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.scale = scale

    def __call__(self, samples: Sequence[Sample], size: int) -> Losses:
        """Of this process's samples, ``size`` of them at once."""
        batch = PhraseBatch.from_samples(samples)
        with self.autocast():
            phrases = self.model.text(batch.phrases)
        parts = [slice(start, start + size) for start in range(0, len(samples), size)]
        learn = self._captions if samples[0]["source"] == "caption" else self._boxes
        losses = learn(list(samples), parts, batch, phrases)
        average_over_processes(self.model)
        return losses

    def _boxes(
        self, samples: list[Sample], parts: list[slice], batch: PhraseBatch, phrases: Tensor
    ) -> Losses:
        model, counts = self.model, None
        total: Losses = {}
        batch, phrases = gather_phrases(batch, phrases)
        leaf = phrases.detach().requires_grad_()
        for part in parts:
            with self.autocast():
                predictions, anchors = model.predict(self._images(samples, part))
                if counts is None:  # all parts are padded to one size, and so have one grid
                    counts = model.box_losses.counts(samples, batch, anchors)
                losses = model.box_losses(
                    samples[part],
                    batch.part(part),
                    model.align(predictions.regions, leaf),
                    predictions,
                    anchors,
                    model.box_transform,
                    model.head.objectness_kind,
                    counts,
                )
            self.scale(sum(losses.values(), start=leaf.new_zeros(()))).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + loss.detach()
        _backward(phrases, leaf.grad)
        return total

    def _captions(
        self, samples: list[Sample], parts: list[slice], batch: PhraseBatch, phrases: Tensor
    ) -> Losses:
        model, contrast = self.model, self.model.contrast
        if contrast is None:
            raise UserError("the model has no `contrast`, which samples of source 'caption' need")
        leaf = phrases.detach().requires_grad_()
        states, proposals = [], []
        for part in parts:
            states.append(_random_state(model.device))
            with torch.no_grad(), self.autocast():
                images = self._images(samples, part)
                predictions, anchors = model.predict(images)
                boxes = model.decode(predictions, anchors, images)
                proposals.append(
                    contrast.regions(predictions, boxes, batch.part(part), leaf, model.align)
                )
        index, regions, valid, areas = map(torch.cat, zip(*proposals, strict=True))
        regions.requires_grad_()
        with self.autocast():
            loss = contrast.weight * contrast.contrast(
                regions, valid, areas, batch, leaf, model.align
            )
        self.scale(loss).backward()
        assert regions.grad is not None
        for part, state in zip(parts, states, strict=True):
            _set_random_state(model.device, state)  # drop path chooses as in the first pass
            with self.autocast():
                predictions, _ = model.predict(self._images(samples, part))
                again = predictions.regions.take_along_dim(index[part, :, None], dim=1)
            _backward(again, regions.grad[part].to(again.dtype))
        _backward(phrases, leaf.grad)
        return {"loss_contrast": loss.detach()}

    def _images(self, samples: list[Sample], part: slice) -> ImageList:
        """The images of a part, padded as the whole batch would be."""
        images = self.model.preprocess_images(samples[part])
        step = max(self.model.backbone.size_divisibility, 1)
        shapes = torch.tensor([sample["image"].shape[-2:] for sample in samples])
        height, width = (-(-shapes.amax(dim=0) // step) * step).tolist()
        missing = (0, width - images.tensor.shape[-1], 0, height - images.tensor.shape[-2])
        return ImageList(F.pad(images.tensor, missing), images.image_sizes)


def average_over_processes(model: nn.Module) -> None:
    """The mean of every gradient over processes, as DistributedDataParallel has it.

    A parameter that no process has used keeps None, so that no optimizer touches it.
    """
    if comm.get_world_size() == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in parameters])
    used = used.to(parameters[0].device)
    torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if is_used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= comm.get_world_size()


def _backward(output: Tensor, grad: Tensor | None) -> None:
    if output.requires_grad:
        output.backward(grad)


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

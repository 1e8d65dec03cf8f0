"""Exact gradients, part by part, of a batch that does not fit into memory.

Losses that are sums over images need only their divisors, which depend on the targets. The contrast
is not such a sum: it compares each text with the images of the whole global batch. It takes two
passes (GradCache, arXiv 2101.06983). The first keeps only the regions that the contrast reads, and
computes the gradient of the loss with respect to them. The second computes the regions again, part
by part, and propagates that gradient. The text is encoded once for the whole batch; its gradient is
propagated at the end.

Layers that normalise over a batch, such as batch normalisation, see parts instead of the batch; the
model of the paper has none.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from detclip2.modeling.protocol import (
    ContrastRegions,
    Losses,
    OpenVocabularyModel,
    Sample,
    Text,
)

RandomState = list[Tensor]


class GradientsInParts:
    """Computes the losses of a batch and adds their gradients to the parameters.

    Args:
        model: not wrapped in DistributedDataParallel; gradients are averaged over processes here.
        autocast: returns the context of the forward passes.
        scale: scales a loss before its backward pass.
    """

    def __init__(
        self,
        model: OpenVocabularyModel,
        autocast: Callable[[], AbstractContextManager[Any]],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.scale = scale

    def __call__(self, samples: Sequence[Sample], size: int) -> Losses:
        """Losses of this process's samples, computed for ``size`` of them at a time."""
        parts = [slice(start, start + size) for start in range(0, len(samples), size)]
        with self.autocast():
            encoded = self.model.encode_text(samples)
        text = encoded.detach()
        losses, regions, states = {}, None, None
        if self.model.has_contrast(samples):
            regions, states = self._regions(samples, parts, text)
            losses = self._contrast(regions, text)
        losses |= self._images(samples, parts, text, regions, states)
        encoded.backward(text)
        average_over_processes(self.model)  # type: ignore[arg-type]
        return losses

    def _regions(
        self, samples: Sequence[Sample], parts: list[slice], text: Text
    ) -> tuple[ContrastRegions, list[RandomState]]:
        """First pass: the regions that the contrast reads, and the random state of each part."""
        model = self.model
        states, regions = [], []
        for part in parts:
            states.append(_random_state(model.device))
            of_part = text.part(part)
            with torch.no_grad(), self.autocast():
                outputs = model.encode_images(
                    model.preprocess_image(samples[part], samples), of_part
                )
                regions.append(model.contrast_regions(outputs, of_part, samples[part]))
        return regions[0].join(regions), states

    def _contrast(self, regions: ContrastRegions, text: Text) -> Losses:
        """The contrast of the whole batch; its gradients go to ``regions`` and ``text``."""
        for tensor in regions.with_gradient():
            tensor.requires_grad_()
        with self.autocast():
            losses = self.model.contrast_losses(regions, text)
        self.scale(torch.stack(list(losses.values())).sum()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _images(
        self,
        samples: Sequence[Sample],
        parts: list[slice],
        text: Text,
        regions: ContrastRegions | None,
        states: list[RandomState] | None,
    ) -> Losses:
        """Second pass, or the only one: losses that are sums over images, and all gradients.

        No losses if none has a gradient.
        """
        model, counts, learns = self.model, None, False
        total: Losses = {}
        for number, part in enumerate(parts):
            if states is not None:
                _set_random_state(model.device, states[number])  # same drop path as before
            of_part = text.part(part)
            with self.autocast():
                outputs = model.encode_images(
                    model.preprocess_image(samples[part], samples), of_part
                )
                if number == 0:  # all parts are padded to one size: one grid
                    counts = model.loss_counts(outputs, text, samples)
                losses = model.image_losses(outputs, of_part, samples[part], counts)
            roots: list[Tensor] = []
            gradients: list[Tensor | None] = []
            if any(loss.requires_grad for loss in losses.values()):
                roots.append(self.scale(torch.stack(list(losses.values())).sum()))
                gradients.append(None)
            if regions is not None:
                of_contrast = zip(
                    regions.again(outputs, part), regions.with_gradient(), strict=True
                )
                for again, first in of_contrast:
                    if again.requires_grad:
                        assert first.grad is not None
                        roots.append(again)
                        gradients.append(first.grad[part].to(again.dtype))
            if roots:
                torch.autograd.backward(roots, gradients)
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + loss.detach()
            learns = learns or bool(roots)
        return total if learns else {}


def average_over_processes(model: nn.Module) -> None:
    """Average every gradient over processes, in place, as DistributedDataParallel does.

    The gradient of a parameter that no process has used stays None, so that optimizers skip it.
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


def _random_state(device: torch.device) -> RandomState:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: RandomState) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

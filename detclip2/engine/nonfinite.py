"""Steps whose loss or gradient is not finite: left out, counted, and told apart."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)
FILE_NAME = "nonfinite.json"


class NonFiniteSteps:
    """Decides, for all processes alike, whether a step is left out.

    What was in its batch goes to ``nonfinite.json`` in the output folder, one line of json a step.

    Args:
        output_dir: of the run.
        max_in_a_row: so many steps in a row end the training.
    """

    def __init__(self, output_dir: str, max_in_a_row: int = 10) -> None:
        self.path = Path(output_dir) / FILE_NAME
        self.max_in_a_row = max_in_a_row
        self.total = 0
        self.in_a_row = 0

    def found(
        self,
        iteration: int,
        batch: Sequence[dict[str, Any]],
        losses: dict[str, Tensor],
        norm: Tensor | None,
        storage: EventStorage,
        model: nn.Module,
    ) -> bool:
        """Is a loss of any process, or the norm of the gradients, not finite?

        Args:
            iteration: the number of the step.
            batch: this process's samples.
            losses: scalars, of this process.
            norm: of all gradients; None if it does not count.
            storage: is told how many steps were left out, once there are any.
            model: the parameters whose gradient is at fault are named.

        Raises:
            UserError: it was so ``max_in_a_row`` times in a row.
        """
        values = {name: loss.item() for name, loss in losses.items()}
        size = 0.0 if norm is None else norm.item()
        bad = torch.tensor(float(not math.isfinite(sum(values.values()) + size)))
        if comm.get_world_size() > 1:
            bad = bad.to(next(iter(losses.values())).device)
            torch.distributed.all_reduce(bad)
        if not bad:
            self.in_a_row = 0
            return False
        self.total += 1
        self.in_a_row += 1
        storage.put_scalar("nonfinite_steps", self.total, smoothing_hint=False)
        shares = comm.gather({"losses": values, "samples": [_name(s) for s in batch]})
        if comm.is_main_process():
            self._keep(iteration, shares, size, _at_fault(model))
        if self.in_a_row >= self.max_in_a_row:
            raise UserError(
                f"the loss was not finite {self.in_a_row} times in a row, last at iteration "
                f"{iteration}: {self.path} names the images; a lower learning rate or "
                "train.clip_grad may help (train.max_nonfinite sets how many are let pass)"
            )
        return True

    def _keep(
        self, iteration: int, shares: list[dict[str, Any]], norm: float, parameters: list[str]
    ) -> None:
        logger.warning(
            "iteration %d is left out, its loss or gradient is not finite (%d so far, see %s): %s",
            iteration,
            self.total,
            self.path,
            [share["losses"] for share in shares],
        )
        # json has no NaN: they are written as words
        norm_in_words = norm if math.isfinite(norm) else str(norm)
        for share in shares:
            losses = share["losses"].items()
            share["losses"] = {k: v if math.isfinite(v) else str(v) for k, v in losses}
        line = {
            "iteration": iteration,
            "gradient_norm": norm_in_words,
            "parameters": parameters,
            "processes": shares,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self.total, self.in_a_row = state.get("total", 0), state.get("in_a_row", 0)


def keep_buffers(model: nn.Module) -> Callable[[], None]:
    """Gives a function that puts the model's buffers back.

    A forward pass that is not finite leaves NaN in the running means of batch normalisation, and
    they would never leave.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]

    def restore() -> None:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    return restore


def _at_fault(model: nn.Module) -> list[str]:
    """Names of parameters with a gradient that is not finite."""
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return [name for name, gradient in gradients if not gradient.isfinite().all()]


def _name(sample: dict[str, Any]) -> dict[str, Any]:
    """What tells a sample apart."""
    keys = ("source", "image_id", "file_name")
    return {key: sample[key] for key in keys if isinstance(sample.get(key), str | int)}

"""Training step with mixed precision and clipped gradients, skipped if it is not finite."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import AMPTrainer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from detclip2.data.hybrid_loader import Batch
from detclip2.engine.micro_batch import GradientsInParts
from detclip2.engine.solver import gather_state, is_sharded
from detclip2.utils.errors import UserError

Losses = dict[str, Tensor]

# Name of a hook in older checkpoints -> its present name.
_RENAMED_HOOKS = {
    "AutoStep": "ReduceLROnPlateau",
    "BestCheckpointer": "ResumableBestCheckpointer",
    "PeriodicCheckpointer": "ResumablePeriodicCheckpointer",
}

logger = logging.getLogger(__name__)
NONFINITE_FILE = "nonfinite.json"


class Trainer(AMPTrainer):
    """Detectron2's AMPTrainer on any device; all processes skip a step that is not finite.

    Args:
        model: maps a batch to a dict of scalar losses; may be in DistributedDataParallel.
        data_loader: endless batches, each with its source.
        optimizer: of the model's parameters.
        nonfinite: decides which steps are skipped, and counts them.
        precision: dtype of autocast on the model's device; None for float32. With float16 the loss
            is scaled, so that small gradients do not vanish.
        clip_norm: largest norm of all gradients together; 0 disables clipping.
        micro_batch: supervision ("detection", "grounding", "caption") -> most samples in one
            forward pass of a process; a larger batch is split, see
            `detclip2.engine.micro_batch`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        nonfinite: "NonFiniteSteps",
        precision: torch.dtype | None = None,
        clip_norm: float = 0.0,
        micro_batch: Mapping[str, int] | None = None,
    ) -> None:
        self.device_type = next(model.parameters()).device.type
        scaler = torch.amp.GradScaler(self.device_type, enabled=precision == torch.float16)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler)
        self.autocast_to = precision
        self.clip_norm = clip_norm
        self.micro_batch = dict(micro_batch or {})
        self.nonfinite = nonfinite
        self.source = ""
        """The source of the latest batch; "" before the first step."""

    def run_step(self) -> None:
        """Forward, backward, and an update unless a loss or gradient is not finite.

        Raises:
            UserError: see `NonFiniteSteps.found`.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.source = batch.source
        self.optimizer.zero_grad()
        restore_buffers = keep_buffers(self.model)
        losses = self.compute_gradients(batch)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        # float16 may overflow: the scaler skips such a step and lowers the scale.
        norm = None if self.grad_scaler.is_enabled() else self._gradient_norm()
        if self.nonfinite.found(self.iter, batch, losses, norm, self.storage, self.model):
            self.storage.put_scalar("data_time", data_time)
            self.grad_scaler.update(self.grad_scaler.get_scale())
            restore_buffers()
            return
        self.write_metrics(losses, data_time, self.iter)
        if self.clip_norm:
            norm = self._gradient_norm() if norm is None else norm
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
        if norm is not None:
            self.storage.put_scalar("grad_norm", norm.item())
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def compute_gradients(self, batch: Batch) -> Losses:
        """The losses of a batch; their scaled gradients are added to the parameters."""
        size = self.micro_batch.get(batch[0].get("supervision", ""), 0)
        if 0 < size < len(batch):
            model = self.model.module if isinstance(self.model, DDP) else self.model
            in_parts = GradientsInParts(model, self.autocast, self.grad_scaler.scale)
            losses: Losses = in_parts(batch, size)
        else:
            with self.autocast():
                losses = self.model(batch)
            if any(loss.requires_grad for loss in losses.values()):
                self.grad_scaler.scale(sum(losses.values())).backward()
            else:
                losses = {}
        if not losses:
            raise UserError(
                f"source {batch.source!r} gives no loss: nothing that learns reads its samples"
            )
        return losses

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        enabled = self.autocast_to is not None
        return torch.autocast(self.device_type, dtype=self.autocast_to, enabled=enabled)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    @property
    def is_sharded(self) -> bool:
        """Whether all processes must call `gather_state` before `state_dict`."""
        return is_sharded(self.optimizer)

    def gather_state(self) -> None:
        """Gather the sharded state in the main process."""
        gather_state(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The state of loop, hooks, optimizer and scaler, and the counts of skipped steps."""
        return {**super().state_dict(), "nonfinite": self.nonfinite.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`; a change of precision starts a new scale."""
        ours = self.grad_scaler.state_dict()
        scale = state_dict.get("grad_scaler") or ours
        hooks = state_dict.get("hooks", {})
        hooks = {_RENAMED_HOOKS.get(name, name): state for name, state in hooks.items()}
        super().load_state_dict({**state_dict, "grad_scaler": scale, "hooks": hooks})
        self.nonfinite.load_state_dict(state_dict.get("nonfinite", {}))


class NonFiniteSteps:
    """Decides, for all processes together, whether a step is skipped.

    ``nonfinite.json`` in the output folder lists the samples of skipped steps, a line of JSON each.

    Args:
        output_dir: folder of the run.
        max_in_a_row: skipped steps in a row that end the training.
    """

    def __init__(self, output_dir: str, max_in_a_row: int = 10) -> None:
        self.path = Path(output_dir) / NONFINITE_FILE
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
        """Whether a loss of any process, or the norm of the gradients, is not finite.

        Args:
            iteration: the number of the step.
            batch: this process's samples.
            losses: scalars, of this process.
            norm: of all gradients; None if it is not checked.
            storage: receives the number of skipped steps, if any.
            model: its parameters with gradients that are not finite are named.

        Raises:
            UserError: ``max_in_a_row`` steps in a row were not finite.
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
            "iteration %d is skipped, its loss or gradient is not finite (%d so far, see %s): %s",
            iteration,
            self.total,
            self.path,
            [share["losses"] for share in shares],
        )
        # JSON has no NaN or infinity: they are written as strings
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
        """Restore the counts."""
        self.total, self.in_a_row = state.get("total", 0), state.get("in_a_row", 0)


def keep_buffers(model: nn.Module) -> Callable[[], None]:
    """Return a function that restores the model's present buffers.

    A forward pass that is not finite leaves NaN in the running means of batch normalisation for
    good.
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
    """The entries that identify a sample."""
    keys = ("supervision", "image_id", "file_name")
    return {key: sample[key] for key in keys if isinstance(sample.get(key), str | int)}

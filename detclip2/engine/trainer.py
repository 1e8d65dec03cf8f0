"""One step of training: mixed precision, clipped gradients, and steps that are left out."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.engine import AMPTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from detclip2.engine.micro_batch import GradientsInParts
from detclip2.engine.nonfinite import NonFiniteSteps, keep_buffers
from detclip2.engine.zero import gather_state, is_shared_out

Losses = dict[str, Tensor]


class Trainer(AMPTrainer):
    """Detectron2's AMPTrainer on any device; a step that is not finite is skipped by all processes.

    Args:
        model: maps a batch to a dict of scalar losses; perhaps in DistributedDataParallel.
        data_loader: endless batches.
        optimizer: of the model's parameters.
        nonfinite: decides which steps are left out, and counts them.
        precision: of the operations that autocast lowers, on the model's device; None for float32.
            With float16 the loss is scaled, so that small gradients are not lost.
        clip_norm: largest norm of all gradients together; 0 does not clip.
        micro_batch: kind of sample ("detection", "grounding", "caption") -> most samples in one
            forward pass of a process; a larger batch is done in parts, see
            :mod:`detclip2.engine.micro_batch`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        nonfinite: NonFiniteSteps,
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

    def run_step(self) -> None:
        """Forward, backward, and an update unless a loss or gradient is not finite."""
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        restore_buffers = keep_buffers(self.model)
        losses = self.compute_gradients(batch)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        # float16 may overflow: the scaler leaves such a step out and scales less from then on.
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

    def compute_gradients(self, batch: list[dict[str, Any]]) -> Losses:
        """The losses of a batch; their gradients are in the parameters, scaled."""
        size = self.micro_batch.get(batch[0].get("source", ""), 0)
        if 0 < size < len(batch):
            model = self.model.module if isinstance(self.model, DDP) else self.model
            return GradientsInParts(model, self.autocast, self.grad_scaler.scale)(batch, size)
        with self.autocast():
            losses: Losses = self.model(batch)
        self.grad_scaler.scale(sum(losses.values())).backward()
        return losses

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        enabled = self.autocast_to is not None
        return torch.autocast(self.device_type, dtype=self.autocast_to, enabled=enabled)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    @property
    def is_shared_out(self) -> bool:
        """Must all processes call :meth:`gather_state` before one calls :meth:`state_dict`?"""
        return is_shared_out(self.optimizer)

    def gather_state(self) -> None:
        """Bring together what the processes keep a part of each."""
        gather_state(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Of the loop, its hooks, optimizer and scaler, and what was skipped."""
        return {**super().state_dict(), "nonfinite": self.nonfinite.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as :meth:`state_dict` says; another precision than before starts a new scale."""
        ours = self.grad_scaler.state_dict()
        scale = state_dict.get("grad_scaler") or ours
        super().load_state_dict({**state_dict, "grad_scaler": scale})
        self.nonfinite.load_state_dict(state_dict.get("nonfinite", {}))

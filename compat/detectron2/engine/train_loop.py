"""The training loop, its hooks, and steps in single and mixed precision."""

import logging
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """Code around the steps of a trainer, which is `self.trainer` once registered.

    `before_step` should be fast, since it counts as a part of the step. A hook with a state has
    `state_dict` and `load_state_dict`.
    """

    trainer: "TrainerBase" = None

    def before_train(self):
        pass

    def after_train(self):
        """Also called when training has failed."""

    def before_step(self):
        pass

    def after_backward(self):
        pass

    def after_step(self):
        pass

    def state_dict(self):
        return {}


class TrainerBase:
    """Runs `run_step` of a subclass in a loop, with hooks.

    `iter` counts from `start_iter` to `max_iter`; `storage` is the EventStorage of this run.
    """

    def __init__(self):
        self._hooks = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks):
        """Add hooks, called in this order; None is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), hook
            hook.trainer = weakref.proxy(self)  # a strong reference would keep both alive
            self._hooks.append(hook)

    def _call_hooks(self, moment):
        for hook in self._hooks:
            getattr(hook, moment)()

    def train(self, start_iter, max_iter):
        logger.info("training starts at iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # iter == max_iter tells `after_train` that training has succeeded.
                self.iter += 1
            except Exception:
                logger.exception("training failed at iteration %d", self.iter)
                raise
            finally:
                self.after_train()

    def before_train(self):
        self._call_hooks("before_train")

    def after_train(self):
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self):
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self):
        self._call_hooks("after_backward")

    def after_step(self):
        self._call_hooks("after_step")

    def run_step(self):
        raise NotImplementedError

    def state_dict(self):
        """The iteration, and the hooks' states by class: of one class, the first that has any."""
        states = {}
        for hook in self._hooks:
            if state := hook.state_dict():
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict):
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logger.warning("the state of hook '%s' is ignored: there is no such hook", name)
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one loader, one optimizer; the model maps a batch to a dict of losses.

    Args:
        model: returns a dict of scalar losses, or one scalar; is set to training mode here.
        data_loader: an iterable that does not end before training does.
        optimizer: a torch optimizer.
        gather_metric_period: losses are gathered over processes and stored every so many steps.
        zero_grad_before_forward: zero the gradients before the forward pass, not after it.
        async_write_metrics: gather and store in another thread, without waiting for the GPU.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        async_write_metrics=False,
    ):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._batches = None
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        # One thread, so that metrics are stored in the order of the steps.
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)

    def run_step(self):
        assert self.model.training, "the model was set to eval mode during training"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self._forward(batch)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(sum(losses.values()))
        self.after_backward()
        if self.async_write_metrics:
            self.concurrent_executor.submit(self._write_metrics, losses, data_time, iter=self.iter)
        else:
            self._write_metrics(losses, data_time)
        self._update()

    def _forward(self, batch):
        return self.model(batch)

    def _backward(self, loss):
        loss.backward()

    def _update(self):
        self.optimizer.step()

    @property
    def _data_loader_iter(self):
        # Made at the first step: workers start then, not where the trainer is built.
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return self._batches

    def reset_data_loader(self, data_loader_builder):
        """Release the loader, then continue with the one that `data_loader_builder()` returns."""
        self.data_loader = self._batches = None
        self.data_loader = data_loader_builder()

    def _write_metrics(self, loss_dict, data_time, prefix="", iter=None):
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period:
            return
        try:
            SimpleTrainer.write_metrics(loss_dict, data_time, iteration, prefix)
        except Exception:
            logger.exception("metrics of iteration %d could not be written", iteration)
            raise

    @staticmethod
    def write_metrics(loss_dict, data_time, cur_iter, prefix=""):
        """Store the means of the losses over processes, their sum, and the time spent waiting for
        data, of the slowest process.

        FloatingPointError if the sum is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        own = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((own, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(time for _, time in gathered), cur_iter=cur_iter)
        losses = {name: np.mean([values[name] for values, _ in gathered]) for name in own}
        total = sum(losses.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"the loss of iteration {cur_iter} is not finite: {losses}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(losses) > 1:
            storage.put_scalars(cur_iter=cur_iter, **losses)

    def state_dict(self):
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self):
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in mixed precision on a GPU, with a scaled loss.

    Args:
        grad_scaler: torch's GradScaler; made here if not given.
        precision: of the operations that autocast lowers.
        log_grad_scaler: store the scale as the scalar "[metric]grad_scaler".
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        grad_scaler=None,
        precision=torch.float16,
        log_grad_scaler=False,
        async_write_metrics=False,
    ):
        several_devices = isinstance(model, DataParallel) or (
            isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        )
        assert not several_devices, "AMPTrainer wants one process for each GPU"
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self):
        assert torch.cuda.is_available(), "AMPTrainer needs a GPU"
        super().run_step()

    def _forward(self, batch):
        with torch.autocast("cuda", dtype=self.precision):
            return self.model(batch)

    def _backward(self, loss):
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self):
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

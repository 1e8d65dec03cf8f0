"""Hooks: time, learning rate, checkpoints, evaluation, and the writers of metrics."""

import logging
import math
import operator
import time
from collections import Counter
from datetime import timedelta

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from .train_loop import HookBase

__all__ = [
    "BestCheckpointer",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Stores the seconds of each step as "time", and logs the speed of the run at its end.

    The first `warmup_iter` steps are slower than the others and do not count. Belongs at the
    head of the hooks, so that a step is timed without them.
    """

    def __init__(self, warmup_iter=3):
        self._warmup_iter = warmup_iter
        self._step = Timer()
        self._steps = Timer()
        self._start = time.perf_counter()

    def before_train(self):
        self._start = time.perf_counter()
        self._steps.reset()
        self._steps.pause()

    def before_step(self):
        self._step.reset()
        self._steps.resume()

    def after_step(self):
        steps_done = self.trainer.iter - self.trainer.start_iter + 1
        if steps_done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
        else:
            self._start = time.perf_counter()
            self._steps.reset()
        self._steps.pause()

    def after_train(self):
        total, in_steps = time.perf_counter() - self._start, self._steps.seconds()
        steps = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if steps > 0 and in_steps > 0:
            # Scripts search for these words.
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                steps,
                timedelta(seconds=int(in_steps)),
                in_steps / steps,
            )
        logger.info(
            "Total training time: %s (%s on hooks)",
            timedelta(seconds=int(total)),
            timedelta(seconds=int(total - in_steps)),
        )


class PeriodicWriter(HookBase):
    """Lets the writers write every `period` steps, after the last one, and at the end."""

    def __init__(self, writers, period=20):
        for writer in writers:
            assert isinstance(writer, EventWriter), writer
        self._writers = writers
        self._period = period

    def after_step(self):
        step = self.trainer.iter + 1
        if step % self._period == 0 or step == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self):
        for writer in self._writers:
            writer.write()  # values that other hooks stored after the last step
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: every `period` steps and after the last one."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


def _evaluates_after_step(trainer, period):
    """Whether to evaluate after this step; the last evaluation is after training."""
    step = trainer.iter + 1
    return period > 0 and step % period == 0 and step != trainer.max_iter


def _is_finished(trainer):
    """False if training has failed."""
    return trainer.iter + 1 >= trainer.max_iter


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever a metric improves, right after its evaluation.

    Args:
        eval_period: that of the `EvalHook`, which comes before this hook.
        checkpointer: what saves.
        val_metric: the metric's name in the storage, such as "bbox/AP50".
        mode: "max" or "min", whichever is better.
        file_prefix: the name of the checkpoint.
    """

    def __init__(self, eval_period, checkpointer, val_metric, mode="max", file_prefix="model_best"):
        assert mode in ("max", "min"), f"mode is 'max' or 'min', not '{mode}'"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric = None
        self.best_iter = None

    def _save_if_best(self):
        if self._val_metric not in self.trainer.storage.latest():
            logger.warning("no '%s' in the storage: no best checkpoint", self._val_metric)
            return
        metric, iteration = self.trainer.storage.latest()[self._val_metric]
        is_best = self.best_metric is None or self._is_better(metric, self.best_metric)
        if not (math.isfinite(metric) and is_best):
            logger.info("%s is %.5f, not the best", self._val_metric, metric)
            return
        self.best_metric, self.best_iter = metric, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("%s is %.5f, the best: saved", self._val_metric, metric)

    def after_step(self):
        if _evaluates_after_step(self.trainer, self._period):
            self._save_if_best()

    def after_train(self):
        if _is_finished(self.trainer):
            self._save_if_best()


class LRScheduler(HookBase):
    """Steps a scheduler after each step of training and stores the learning rate as "lr".

    `scheduler` is torch's, or an fvcore ParamScheduler: then a multiplier of the optimizer's
    rates over the whole training. What is not given is the trainer's own.
    """

    def __init__(self, optimizer=None, scheduler=None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def before_train(self):
        if self._optimizer is None:
            self._optimizer = self.trainer.optimizer
        schedule, trainer = self.scheduler, self.trainer
        if isinstance(schedule, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, schedule, trainer.max_iter, last_iter=trainer.iter - 1
            )
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer):
        """The group to report: the one with the most parameters; where all have one, the first
        with the most common rate.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self):
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self):
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, _TorchScheduler):
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls `eval_function()` every `eval_period` steps (0: never) and after the training.

    It returns a nested dict of numbers, stored as "outer/inner", or nothing. All processes have
    this hook, or none: they wait for each other.
    """

    def __init__(self, eval_period, eval_function, eval_after_train=True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self):
        results = self._func()
        if results:
            assert isinstance(results, dict), f"eval_function returned a {type(results)}, no dict"
            metrics = flatten_results_dict(results)
            for name, value in metrics.items():
                try:
                    float(value)
                except Exception as error:
                    raise ValueError(
                        f"eval_function returned {name}: {value!r}, which is not a number"
                    ) from error
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        comm.synchronize()

    def after_step(self):
        if _evaluates_after_step(self.trainer, self._period):
            self._evaluate()

    def after_train(self):
        if self._eval_after_train and _is_finished(self.trainer):
            self._evaluate()
        del self._func  # often a closure that would keep the trainer alive

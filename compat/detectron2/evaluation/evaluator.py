"""The interface of evaluators, several as one, and evaluation of a model on a data set."""

import logging
import time
from collections.abc import MutableSequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch

from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_on_dataset"]

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """`reset`, then `process` for each batch, then `evaluate`."""

    def reset(self):
        pass

    def process(self, inputs, outputs):
        """Process a batch: lists of the model's inputs and outputs."""

    def evaluate(self):
        """The results, usually {task: {metric: value}}; None without results."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators of one run. No two may have results of the same name."""

    def __init__(self, evaluators):
        self._evaluators = evaluators

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self):
        results = {}
        for evaluator in self._evaluators:
            own = evaluator.evaluate()
            if is_main_process() and own is not None:
                twice = results.keys() & own.keys()
                assert not twice, f"two evaluators have results named {', '.join(twice)}"
                results.update(own)
        return results


class _Stopwatch:
    """Seconds of each phase of an iteration, summed; the first iterations do not count."""

    def __init__(self, num_warmup):
        self._num_warmup = num_warmup
        self._restart()

    def _restart(self):
        self.seconds = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}
        self._start = self._last = time.perf_counter()

    def lap(self, phase):
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def start_iteration(self, index):
        if index == self._num_warmup:
            self._restart()

    @property
    def total(self):
        return time.perf_counter() - self._start


def inference_on_dataset(model, data_loader, evaluator, callbacks=None):
    """Run the model over the loader, show each batch to the evaluator, and return its results.

    Args:
        model: a callable; a module is in eval mode meanwhile, and without gradients.
        data_loader: an iterable with a length.
        evaluator: one, a list of them, or None to measure time only.
        callbacks: functions without arguments, by the moment they are called: "on_start",
            "before_inference", "after_inference", "on_end".

    Returns:
        The evaluator's results; {} where it has none, as on processes but the main one.
    """
    call = {**dict.fromkeys(_MOMENTS, lambda: None), **(callbacks or {})}
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    total = len(data_loader)
    num_warmup = min(5, total - 1)
    logger.info("Start inference on %d batches", total)

    in_eval_mode = inference_context(model) if isinstance(model, torch.nn.Module) else nullcontext()
    with in_eval_mode, torch.no_grad():
        call["on_start"]()
        watch = _Stopwatch(num_warmup)
        for index, inputs in enumerate(data_loader):
            watch.lap("Dataloading")
            watch.start_iteration(index)
            call["before_inference"]()
            outputs = model(inputs)
            call["after_inference"]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            watch.lap("Inference")
            evaluator.process(inputs, outputs)
            watch.lap("Eval")
            if index >= 2 * num_warmup:
                _log_progress(watch, index + 1, total, num_warmup)
        call["on_end"]()
    _log_speed(watch, total - num_warmup)
    results = evaluator.evaluate()
    return {} if results is None else results


_MOMENTS = ("on_start", "before_inference", "after_inference", "on_end")


def _log_progress(watch, done, total, num_warmup):
    timed = done - num_warmup
    phases = "".join(f"{name}: {s / timed:.4f} s/iter. " for name, s in watch.seconds.items())
    eta = timedelta(seconds=int(watch.total / timed * (total - done)))
    message = f"Inference done {done}/{total}. {phases}ETA={eta}"
    log_every_n_seconds(logging.INFO, message, n=5)


def _log_speed(watch, timed):
    compute = watch.seconds["Inference"]
    # Scripts search for these words.
    for label, seconds in (("time", watch.total), ("pure compute time", compute)):
        logger.info(
            "Total inference %s: %s (%.6f s / iter per device, on %d devices)",
            label,
            timedelta(seconds=int(seconds)),
            seconds / max(timed, 1),
            get_world_size(),
        )


@contextmanager
def inference_context(model):
    """The module in eval mode, afterwards in the mode it was in."""
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)

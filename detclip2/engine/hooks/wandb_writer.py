"""Writer of metrics to Weights & Biases (``pip install detclip2[wandb]``)."""

from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from detclip2.utils.errors import UserError


class WandbWriter(EventWriter):
    """Sends new scalars of the event storage to Weights & Biases.

    Args:
        output_dir: folder for the package's files.
        config: of the run, shown beside its curves.
        **init: further arguments of ``wandb.init``, such as ``project``, ``name`` or ``mode``.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, output_dir: str, config: dict[str, Any], **init: Any) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise UserError(
                "train.wandb is set, but the package 'wandb' is not installed: "
                "`pip install wandb`, or leave train.wandb at None"
            ) from error
        self._run: Any = wandb.init(dir=output_dir, config=config, resume="allow", **init)
        self._last = -1

    def write(self) -> None:
        """Send each iteration's scalars, smoothed as in metrics.json, by iteration."""
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)
            self._last = iteration

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()

"""Writers of metrics to trackers of experiments: Weights & Biases, trackio and MLflow."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole


class TrackerWriter(EventWriter):
    """Sends new scalars of the event storage to a tracker, iteration by iteration."""

    _last = -1

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of an iteration."""
        raise NotImplementedError

    def write(self) -> None:
        """Send each iteration's scalars, smoothed as in metrics.json, by iteration."""
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self.log(by_iteration[iteration], iteration)
            self._last = iteration


class WandbWriter(TrackerWriter):
    """Weights & Biases (``pip install detclip2[wandb]``).

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
            raise _missing("wandb") from error
        self._run: Any = wandb.init(dir=output_dir, config=config, resume="allow", **init)

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of an iteration."""
        self._run.log(scalars, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TrackioWriter(TrackerWriter):
    """Trackio (``pip install trackio``): on this machine, without an account.

    A resumed training continues the run of its output folder. ``TRACKIO_DIR`` is where trackio
    keeps its runs; ``trackio show`` draws them.

    Args:
        output_dir: its last part is the name of the run, if there is no other.
        config: of the run.
        project: of the run.
        name: of the run.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(
        self, output_dir: str, config: dict[str, Any], project: str, name: str | None = None
    ) -> None:
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise _missing("trackio") from error
        self._package: Any = trackio
        name = name or Path(os.path.abspath(output_dir)).name
        self._package.init(project=project, name=name, config=config, resume="allow")

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of an iteration."""
        self._package.log(scalars, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._package.finish()


class MlflowWriter(TrackerWriter):
    """MLflow (``pip install mlflow``), at ``MLFLOW_TRACKING_URI``.

    A resumed training continues the run that the file ``mlflow_run`` of its output folder names.

    Args:
        output_dir: folder for that file.
        config: of the run, kept as config.json.
        experiment: of the run.
        name: of the run; None: MLflow invents one.

    Raises:
        UserError: the package is not installed.
    """

    RUN = "mlflow_run"

    def __init__(
        self, output_dir: str, config: dict[str, Any], experiment: str, name: str | None = None
    ) -> None:
        try:
            import mlflow
        except ModuleNotFoundError as error:
            raise _missing("mlflow") from error
        self._package: Any = mlflow
        path = Path(output_dir) / self.RUN
        self._package.set_experiment(experiment)
        if path.is_file():
            self._package.start_run(run_id=path.read_text().strip())
            return
        run = self._package.start_run(run_name=name)
        self._package.log_dict(config, "config.json")
        write_whole(path, lambda file: file.write(run.info.run_id.encode()))

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of an iteration."""
        self._package.log_metrics(scalars, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._package.end_run()


def _missing(package: str) -> UserError:
    return UserError(
        f"train.{package} is set, but the package {package!r} is not installed: "
        f"`pip install {package}`, or leave train.{package} at None"
    )


TRACKERS: Mapping[str, type[Any]] = {
    "wandb": WandbWriter,
    "trackio": TrackioWriter,
    "mlflow": MlflowWriter,
}
"""Key of ``train`` -> the writer that gets its values as arguments."""

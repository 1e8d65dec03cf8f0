"""Learning curves of a run, drawn from its metrics.json."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)
FILE_NAME = "curves.png"
AP_NAMES = {"AP": "AP, mean over IoU 0.5 to 0.95", "AP50": "AP at IoU 0.5"}
Curves = dict[str, list[tuple[int, float]]]


class DrawCurves(HookBase):
    """Draws ``curves.png`` when training ends; register it after the writers.

    Args:
        output_dir: folder of the run, with metrics.json.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def after_train(self) -> None:
        """Draw, also after a training that has failed; failing to draw is only logged."""
        try:
            draw_curves(read_metrics(self.output_dir / "metrics.json"), self.output_dir / FILE_NAME)
        except (OSError, ValueError) as error:
            logger.warning("no learning curves were drawn: %s", error)


def read_metrics(path: Path) -> Curves:
    """Name -> (iteration, value) by iteration.

    If a resumed run has repeated an iteration, its last values count. Undefined values, null in the
    file, are NaN.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            scalars = json.loads(line)
        except json.JSONDecodeError:  # the process was killed while it wrote this
            continue
        iteration = scalars.pop("iteration")
        for name, value in scalars.items():
            values[name][iteration] = math.nan if value is None else value
    return {name: sorted(points.items()) for name, points in values.items()}


def draw_curves(curves: Curves, path: Path, before: Mapping[str, Any] | None = None) -> None:
    """Plot losses (by source, if there are several), AP, learning rate and speed, in a column.

    Axes start at zero, unless a value is negative.

    Args:
        curves: from `read_metrics`.
        path: the .png file to write; the name of its folder is in the title.
        before: results of the model before the training, by name; drawn at iteration 0.

    Raises:
        ValueError: there is nothing to draw.
    """
    from matplotlib.figure import Figure  # takes a second

    panels = {
        "loss": _of_sources(curves, "total_loss"),
        "AP in percent": [name for name in curves if name.rpartition("/")[2] in AP_NAMES],
        "learning rate": [name for name in curves if name == "lr"],
        "images a second": _of_sources(curves, "images_per_second"),
    }
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise ValueError("no metrics were written")
    figure = Figure(figsize=(8, 2.5 * len(panels)), layout="constrained")
    figure.suptitle(f"Training in {path.absolute().parent.name}", fontsize="medium")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            first = [(0, before[name])] if before and before.get(name) is not None else []
            iterations, values = zip(*first, *curves[name], strict=True)
            marker = "." if len(values) < 30 else None
            axis.plot(iterations, values, label=_in_words(name), marker=marker)
        axis.set_ylabel(title)
        if len(names) > 1:
            axis.legend(loc="best", fontsize="small")
        if math.isfinite(axis.dataLim.y1):
            low, high = min(0.0, axis.dataLim.y0), max(0.0, axis.dataLim.y1)
            axis.set_ylim(low, high + 0.08 * (high - low) or 1.0)
        axis.grid(alpha=0.3)
    axes[0].set_xlim(left=0)
    axes[-1].set_xlabel("iteration" + (" (0: before the training)" if before else ""))
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=200))


def _of_sources(curves: Curves, name: str) -> list[str]:
    """The names of a metric for each source; the plain one if there is a single source."""
    return [key for key in curves if key.endswith(f"/{name}")] or [k for k in curves if k == name]


def _in_words(name: str) -> str:
    """A metric's name in a legend: "own" of "own/total_loss", "AP at IoU 0.5" of "bbox/AP50"."""
    group, _, last = name.rpartition("/")
    if last not in AP_NAMES:
        return group or "all"
    return AP_NAMES[last] if group == "bbox" else f"{AP_NAMES[last]}, {group.replace('_', ' ')}"

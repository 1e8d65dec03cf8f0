"""The figure of a calibration: scores beside the share of right detections."""

from collections.abc import Mapping
from pathlib import Path

from detclip2.inference.calibration import BINS, Reliability
from detclip2.utils.files import write_whole


def draw_reliability(parts: Mapping[str, Reliability], path: Path) -> None:
    """Draw bars of the share of right detections by score, one panel a part.

    A calibrated score is on the diagonal. The counts are below, on a logarithmic axis.

    Args:
        parts: title -> reliability.
        path: the .png file to write.
    """
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(4 * len(parts), 5), layout="constrained")
    axes = figure.subplots(
        2, len(parts), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
    )
    left, width = [i / BINS for i in range(BINS)], 1 / BINS
    for (title, one), (above, below) in zip(parts.items(), axes.T, strict=True):
        above.bar(left, one.right, width, align="edge", color="#7aa6d8", edgecolor="white")
        above.plot(one.scores, one.right, "o", color="#1f4e8c", markersize=4)
        above.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
        above.set(title=f"{title}: error {one.error:.3f}", xlim=(0, 1), ylim=(0, 1))
        below.bar(left, one.counts, width, align="edge", color="#bbbbbb", edgecolor="white")
        below.set(xlabel="score", yscale="symlog", ylim=(0, None))
    axes[0, 0].set_ylabel("share of right detections")
    axes[1, 0].set_ylabel("detections")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))

"""Growth of time with the number of names and with pixels, and its figure."""

from pathlib import Path
from typing import Any

from .inference import Case, prepared
from .timing import Setting, seconds, spread

NAMES = (1, 10, 80, 300, 1203, 4000, 13204)
SIZES = ((320, 320), (480, 480), (640, 640), (640, 1066), (800, 1066), (800, 1333))


def measure(setting: Setting) -> dict[str, Any]:
    """Times of each number of names at 800 x 1333, and of each size with 80 names, in turns."""
    setting.prepare()
    return {
        "names": by_turns({n: Case(n) for n in NAMES}, setting),
        "pixels": by_turns({f"{h} x {w}": Case(80, (h, w)) for h, w in SIZES}, setting),
    }


def by_turns(cases: dict[Any, Case], setting: Setting) -> list[dict[str, Any]]:
    """A row for each case; each repeat goes once through all of them."""
    runs = {key: prepared(case, setting)[0] for key, case in cases.items()}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for repeat in range(setting.repeats + 1):
        for key, run in runs.items():
            taken = seconds(run, setting.device)
            if repeat:  # the first warms up
                times[key].append(taken)
    return [
        {"case": key, "pixels": cases[key].size[0] * cases[key].size[1], "seconds": spread(values)}
        for key, values in times.items()
    ]


def draw(growth: dict[str, Any], path: Path) -> None:
    """Draw both as curves, relative to 80 names and to 800 x 1333."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = growth["names"]
    base = next(row for row in names if row["case"] == 80)["seconds"]["median"]
    curve(left, [row["case"] for row in names], names, base)
    left.set_xscale("log")
    left.set_xlabel("cached names, at 800 x 1333")
    left.set_ylabel("time / time with 80 names")
    pixels = growth["pixels"]
    base = pixels[-1]["seconds"]["median"]
    curve(right, [row["pixels"] / 1e6 for row in pixels], pixels, base)
    right.set_xlabel("million pixels, with 80 names")
    right.set_ylabel("time / time at 800 x 1333")
    right.set_xlim(left=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def curve(axes: Any, x: list[float], rows: list[dict[str, Any]], base: float) -> None:
    """Plot medians, with least and most as bars."""
    median, least, most = (
        [row["seconds"][key] / base for row in rows] for key in ("median", "least", "most")
    )
    below = [m - low for m, low in zip(median, least, strict=True)]
    above = [high - m for m, high in zip(median, most, strict=True)]
    axes.errorbar(x, median, yerr=[below, above], marker="o", capsize=3)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)

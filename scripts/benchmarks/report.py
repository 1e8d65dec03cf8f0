"""Tables of the results, on the terminal and between the markers of docs/performance.md."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from detclip2.utils.files import write_whole

from . import growth

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURE = DOCS / "images" / "growth.png"
MARKER = re.compile(r"(<!-- table of (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
Rows = list[Sequence[str]]


def spread(values: dict[str, float], digits: int = 2) -> str:
    """Median [least, most]."""
    return "{} [{}, {}]".format(*(f"{values[k]:.{digits}f}" for k in ("median", "least", "most")))


def size_of(size: Sequence[int]) -> str:
    """Height x width."""
    return " x ".join(map(str, size))


def inference_rows(result: list[dict[str, Any]]) -> Rows:
    """The table of our own model."""
    head = ("model", "input", "names", "text", "batch", "pairs above the threshold")
    rows: Rows = [
        (*head, "relative time of an image", "seconds a batch", "peak MiB", "of the device's peak")
    ]
    for row in result:
        survivors = "all" if row["survivors"] >= 10**6 else f"{row['survivors']:,}"
        rows.append(
            (
                row["model"],
                size_of(row["size"]),
                f"{row['names']:,}",
                row["text"],
                str(row["batch"]),
                survivors,
                spread(row["ratio"]),
                spread(row["seconds"], 3),
                f"{row['peak_MiB']:,}",
                f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "",
            )
        )
    return rows


def budgets_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for each engine, precision and case."""
    head = ("model", "engine", "precision", "input", "names", "batch", "relative time of an image")
    rows: Rows = [(*head, "seconds a batch", "peak MiB")]
    for row in result:
        rows.append(
            (
                row["model"],
                row["engine"],
                row["precision"],
                size_of(row["size"]),
                f"{row['names']:,}",
                str(row["batch"]),
                spread(row["ratio"]),
                spread(row["seconds"]),
                f"{row['peak_MiB']:,}",
            )
        )
    return rows


def stages_rows(result: list[dict[str, Any]]) -> Rows:
    """A column for each stage."""
    rows: Rows = [("input", "names", *result[0]["shares"])]
    for row in result:
        shares = (
            f"{share:.0%} ({row['seconds'][stage]:.3f} s)" for stage, share in row["shares"].items()
        )
        rows.append((size_of(row["size"]), f"{row['names']:,}", *shares))
    return rows


def peers_rows(result: dict[str, Any]) -> Rows:
    """The table of the peers, with our model at the size of one."""
    rows: Rows = [("model", "input", "names", "relative time", "seconds", "peak MiB")]
    rows += [
        (
            row["model"],
            row["size"],
            f"{row['names']:,}",
            spread(row["ratio"]),
            spread(row["seconds"]),
            f"{row['peak_MiB']:,}",
        )
        for row in result["peers"]
    ]
    for row in result.get("ours_against", []):
        what = f"DetCLIPv2 Swin-T / {row['peer']}, in turns"
        rows.append((what, row["size"], str(row["names"]), f"{spread(row['ratio'])} of it", "", ""))
    return rows


def glip_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for each way of packing the names into captions."""
    head = ("model", "names", "names a caption, at most", "captions", "of these measured")
    rows: Rows = [(*head, "tokens, at most", "relative time", "seconds", "peak MiB")]
    for row in result:
        rows.append(
            (
                row["model"],
                f"{row['names']:,}",
                str(row["names_per_caption"] or "as fit"),
                str(row["captions"]),
                str(row["measured"]),
                str(row["tokens"]),
                spread(row["ratio"], 1),
                spread(row["seconds"], 1),
                f"{row['peak_MiB']:,}",
            )
        )
    return rows


def growth_rows(result: dict[str, Any]) -> Rows:
    """Names, then pixels."""
    rows: Rows = [("what grows", "value", "seconds")]
    for what in ("names", "pixels"):
        for row in result[what]:
            rows.append((what, f"{row['case']}", spread(row["seconds"])))
    return rows


def training_rows(result: dict[str, Any]) -> Rows:
    """One row."""
    return [
        ("captions a batch", "detections a batch", "caption sample / detection sample", "peak MiB"),
        (
            str(result["captions"]),
            str(result["detections"]),
            spread(result["share"], 3),
            f"{result['peak_MiB']:,}",
        ),
    ]


def training_nano_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for each precision."""
    rows: Rows = [("precision", "channels last", "processor s a step", "images a second, relative")]
    for row in result:
        times = spread(row["seconds"], 3), spread(row["speed"])
        rows.append((row["precision"], "yes" if row["channels_last"] else "no", *times))
    return rows


def methods_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for each model, a column for each count of names and each kind of training sample."""
    columns = [what for what in result[0] if what not in ("model", "milliseconds")]
    heads = (f"{what} names" if what.isdigit() else f"{what} sample" for what in columns)
    rows: Rows = [("model", "processor ms an image, fewest names", *heads)]
    for row in result:
        ratios = (spread(row[what]) for what in columns)
        rows.append((row["model"], spread(row["milliseconds"], 1), *ratios))
    return rows


def gpu_rows(result: dict[str, Any]) -> Rows:
    """What was measured, what failed, and what the budget had no time for."""
    head = ("what", "way", "precision", "batch", "ms a batch", "images a second", "relative")
    rows: Rows = [(*head, "peak MiB", "of the device's peak")]
    for row in result["rows"]:
        about = (row["what"], row["way"], row["dtype"], str(row["batch"]))
        if "why" in row:
            rows.append((*about, row["why"], "", "", "", ""))
            continue
        milliseconds = {key: 1000 * value for key, value in row["seconds"].items()}
        rows.append(
            (
                *about,
                spread(milliseconds, 1),
                f"{row['batch'] / row['seconds']['median']:.1f}",
                spread(row["ratio"]) if "ratio" in row else "",
                f"{row['peak_MiB']:,}",
                f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "",
            )
        )
    return rows


def contrast_rows(result: dict[str, Any]) -> Rows:
    """One row."""
    keys = ("images", "processes", "regions", "words", "width")
    return [
        (*keys, "processor seconds", "floor, seconds", "time / floor", "peak MiB"),
        (
            *(str(result[key]) for key in keys),
            *(spread(result[key]) for key in ("seconds", "floor_seconds", "ratio")),
            str(result["peak_MiB"]),
        ),
    ]


def loading_rows(result: dict[str, Any]) -> Rows:
    """Sources, then shards against decoding and other readers, and the text of a step."""
    rows: Rows = [("source", "input", "samples a second a core")]
    for row in result["samples_a_second_a_core"]:
        rows.append((row["source"], row["input"], spread(row, 0)))
    if "detection_of_detectron2" in result:
        share = f"{spread(result['detection_of_detectron2'])} of Detectron2's DatasetMapper"
        rows.append(("detection json, photographs, in turns", "480-800 x 1333", share))
    if result["shards"]:
        for decoder in ("cv2", "pillow"):
            share = f"{spread(result['shards'][f'of_{decoder}'])} of a bare loop of {decoder}"
            rows.append(("tar shards, read and decoded", "as stored", share))
    for reader, name in (("webdataset", "webdataset's reader"), ("stream", "our stream")):
        if "pairs_of" in result:
            share = f"{spread(result['pairs_of'][reader])} of {name}"
            rows.append(("tar shards, read in random order", "as stored", share))
    if "text_of_pairs" in result:
        text = result["text_of_pairs"]
        what = f"{text['pairs']} pairs of {text['phrases']} phrases"
        for key, how in (("by_phrases", "tokenised there"), ("by_tokens", "tokens by the loader")):
            milliseconds = f"{spread(text[key], 1)} ms of the process that trains"
            rows.append((f"text of a step, {how}", what, milliseconds))
    return rows


def startup_rows(result: dict[str, Any]) -> Rows:
    """Commands."""
    rows: Rows = [("command", "first, seconds", "then, seconds")]
    rows += [(f"`{name}`", f"{row['first']:.2f}", spread(row)) for name, row in result.items()]
    return rows


def evaluation_rows(result: list[dict[str, Any]]) -> Rows:
    """Protocols."""
    columns = ("Detectron2, seconds", "here, seconds", "times faster", "largest difference of AP")
    rows: Rows = [("protocol", "images", "names", "detections", *columns)]
    for row in result:
        numbers = (f"{row[key]:,}" for key in ("images", "names", "detections"))
        times = (spread(row[key], 1) for key in ("detectron2_seconds", "seconds", "times_faster"))
        rows.append((row["protocol"], *numbers, *times, f"{row['difference']:.0e}"))
    return rows


def export_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for the predictor and one for each precision."""
    # Results before 2026-11-30 are times of the clock.
    time, clock = ("cpu_ms", "processor ms") if "cpu_ms" in result[0] else ("ms", "ms an image")
    head = ("what", "scenes", "names", "AP", "AP50", clock, "time / that of fp32", "MB")
    rows: Rows = [head]
    for row in result:
        numbers = (f"{row[key]:,}" for key in ("scenes", "names"))
        scores = (f"{row[key]:.2f}" for key in ("AP", "AP50"))
        times = spread(row[time], 1), spread(row["of_fp32"])
        rows.append((row["what"], *numbers, *scores, *times, f"{row['MB']}" if row["MB"] else ""))
    return rows


def serving_rows(result: list[dict[str, Any]]) -> Rows:
    """A row for each load."""
    head = ("clients", "seconds", "requests", "of them damaged", "errors", "answers a second")
    rows: Rows = [(*head, "ms an answer", "95 %, ms", "memory at a tenth, most, at the end, MiB")]
    for row in result:
        counts = (f"{row[key]:,}" for key in ("clients", "seconds", "requests", "bad", "errors"))
        memory = ", ".join(f"{value:,}" for value in row["MiB"])
        times = spread(row["ms"], 0), f"{row['p95_ms']:,}"
        rows.append((*counts, f"{row['a_second']:g}", *times, memory))
    return rows


ROWS: dict[str, Callable[[Any], Rows]] = {
    "inference": inference_rows,
    "budgets": budgets_rows,
    "photographs": budgets_rows,
    "stages": stages_rows,
    "peers": peers_rows,
    "glip": glip_rows,
    "growth": growth_rows,
    "training": training_rows,
    "training_nano": training_nano_rows,
    "methods": methods_rows,
    "gpu": gpu_rows,
    "contrast": contrast_rows,
    "loading": loading_rows,
    "scenes": loading_rows,
    "startup": startup_rows,
    "export": export_rows,
    "serving": serving_rows,
    "evaluation": evaluation_rows,
}


def show(subject: str, result: Any) -> None:
    """Print a table."""
    head, *rows = ROWS[subject](result)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write(results_file: Path, page: Path = DOCS / "performance.md", figure: Path = FIGURE) -> None:
    """Fill the tables of the page, and draw the figure.

    A table stands between ``<!-- table of NAME -->`` and ``<!-- end -->``, where NAME is one of
    the json's. Tables without results say "Not measured yet."
    """
    results = json.loads(results_file.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    text = MARKER.sub(lambda m: f"{m[1]}{block(m['name'], results)}\n{m[3]}", text)
    write_whole(page, lambda file: file.write(text.encode()))
    if "growth" in results:
        growth.draw(results["growth"]["result"], figure)


def block(name: str, results: dict[str, Any]) -> str:
    """A table in Markdown, with its conditions below."""
    if name not in results:
        return "Not measured yet."
    entry = results[name]
    head, *rows = ROWS[name.split()[0]](entry["result"])
    lines = [head, ("---",) * len(head), *rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    threads = f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}"
    image = "![time against names and pixels](images/growth.png)\n\n" if name == "growth" else ""
    clock = ", processor time" if entry.get("processor_time") else ""
    half = "" if entry["dtype"] == "float32" else f", {entry['dtype']}"
    return (
        f"{table}\n\n{image}`{entry['command']}`, {entry['date']}, {entry['machine']}, "
        f"{threads}, torch {entry['torch']}{half}{clock}; "
        f"at most {entry['repeats']} repeats, median [least, most]."
    )

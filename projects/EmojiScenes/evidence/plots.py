"""Figures of the results, and images with the detections of one run."""

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torchvision.ops import batched_nms, box_convert

from detclip2.config import load_config
from detclip2.data.emojiscenes import EmojiPairs
from detclip2.data.io.image import read_image
from detclip2.evaluation.protocol import file_hash
from detclip2.evaluation.worst_errors import draw_errors, errors_of
from detclip2.inference.explain import explain
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import CONFIG_NAME, read_model_folder
from detclip2.visualization.explanation import COLUMNS, draw_explanation

from .evaluator import NMS_THRESHOLD
from .rows import ROWS, TABLES
from .tables import Record, records_of

SOURCES = ("detection", "grounding", "pairs", "all")
GROUPS = {"frequent (APf)": "APf", "common (APc)": "APc", "novel (APr)": "APr"}
TITLES = {
    "frequency": "AP by the frequency of categories in training",
    "pairs": "AP by the number of image-text pairs",
    "curves": "Learning curves",
}
SURE = 0.3  # score from which a detection is drawn
IMAGES = 6  # in a sheet
MAX_WIDTH = 1832  # px: four panels of an explanation
MAX_BYTES = 300_000  # of a sheet


def draw_all(results: Path, folder: Path) -> list[Path]:
    """The figures of every size that has results.

    Raises:
        UserError: there are none.
    """
    sizes = [path for path in sorted(results.glob("*")) if path.is_dir() and path.name != "photos"]
    drawn = []
    for size in sizes:
        for name, draw in (("frequency", by_frequency), ("pairs", by_pairs), ("curves", curves)):
            figure = Figure(figsize=(8, 4), layout="constrained")
            if draw(figure, size):
                seeds = "the first seed" if name == "curves" else seeds_of(size)
                figure.suptitle(f"{TITLES[name]} ({size.name} size, {seeds})", fontsize=11)
                path = folder / f"{size.name}-{name}.png"
                write_whole(path, lambda file, f=figure: f.savefig(file, format="png", dpi=160))
                drawn.append(path)
    if not drawn:
        raise UserError(f"{results}: there are no results to draw; run some rows first")
    return drawn


def seeds_of(size: Path) -> str:
    """How many seeds the rows have at most, in words."""
    most = max((len(records_of(size, row)) for row in SOURCES), default=0)
    return f"up to {most} seeds" if most > 1 else "one seed"


def by_frequency(figure: Figure, size: Path) -> bool:
    """AP of the frequent, the common and the novel categories, by training sources."""
    rows = {row: found for row in SOURCES if (found := records_of(size, row))}
    if not rows:
        return False
    axis = figure.subplots()
    width = 0.8 / len(rows)
    for number, (row, records) in enumerate(rows.items()):
        values = [[metric(record, key) for record in records] for key in GROUPS.values()]
        places = np.arange(len(GROUPS)) + (number - (len(rows) - 1) / 2) * width
        bars(axis, places, values, width, ROWS[row].label)
    axis.set_xticks(range(len(GROUPS)), list(GROUPS))
    axis.set_ylabel("Fixed AP")
    axis.legend(fontsize="small")
    return True


def bars(
    axis: Axes, places: Any, values: Sequence[Sequence[float]], width: float, label: str
) -> None:
    """Means, with a line for the spread over seeds."""
    means = [statistics.mean(group) for group in values]
    spread = [statistics.stdev(group) if len(group) > 1 else 0 for group in values]
    axis.bar(places, means, width, yerr=spread if any(spread) else None, label=label, capsize=3)


def by_pairs(figure: Figure, size: Path) -> bool:
    """AP of base and novel categories over the number of image-text pairs seen."""
    records = [record for row in TABLES["amount"].rows for record in records_of(size, row)]
    records.sort(key=lambda record: record["images"].get("pairs", 0))
    numbers = [record["images"].get("pairs", 0) for record in records]
    if len(set(numbers)) < 2:
        return False
    axis = figure.subplots()
    for key, label in (("AP-base", "base"), ("AP-novel", "novel")):
        values = [metric(record, key) for record in records]
        axis.plot(numbers, values, marker="o", linestyle="", label=label)
    axis.set_xlabel("image-text pairs seen")
    axis.set_ylabel("Fixed AP")
    axis.set_ylim(bottom=0)
    axis.legend()
    axis.grid(alpha=0.3)
    return True


def curves(figure: Figure, size: Path) -> bool:
    """Losses of boxes, and how often a caption finds its image, over iterations."""
    rows = {row: found[0] for row in SOURCES if (found := records_of(size, row))}
    if not rows:
        return False
    panels = figure.subplots(1, 2)
    titles = {
        "loss of boxes": ("detection/total_loss", "total_loss"),
        "captions that find their image": ("contrast/text_to_image_accuracy",),
    }
    for axis, (title, names) in zip(panels, titles.items(), strict=True):
        for number, (row, record) in enumerate(rows.items()):
            name = next((name for name in names if name in record["curves"]), None)
            if name:
                iterations, values = zip(*record["curves"][name], strict=True)
                # A row has the same colour in both panels, even without a curve in one.
                axis.plot(iterations, values, color=f"C{number}", label=ROWS[row].label)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("iteration")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    return True


def metric(record: Record, key: str) -> float:
    """A metric of Fixed AP; 0 where there was nothing to measure."""
    return record["results"]["seen"]["bbox_fixed"].get(key) or 0.0


def draw_run(run: Path, folder: Path, data: Path) -> list[Path]:
    """Images of one run: the regions of its phrases, and its best and worst detections.

    Args:
        run: its folder, with weights and the detections of the test set "seen".
        folder: where the images go.
        data: folder with the rendered test sets.
    """
    drawn = [folder / f"{run.name}-{name}.jpg" for name in ("words", "best", "worst")]
    save(words_sheet(run), drawn[0])
    images = error_images(run, data)
    save(sheet(images[-IMAGES:]), drawn[1])
    save(sheet(images[:IMAGES]), drawn[2])
    return drawn


def words_sheet(run: Path) -> np.ndarray:
    """Captions with novel names, and the regions that their phrases choose."""
    predictor = OpenVocabularyPredictor(*read_model_folder(run), trust_config=True)
    cfg, _ = load_config(run / CONFIG_NAME, trust_config=True)
    pairs = EmojiPairs(cfg.world.categories, 1000, cfg.world.pairs_size, seed=1_000_000)
    novel = {category.name for category in pairs.world.novel}
    # The image and its phrases fill a row.
    fits = (r for r in pairs if novel & set(r["phrases"]) and len(r["phrases"]) == COLUMNS - 1)
    chosen = [*islice(fits, 3)]
    images = [
        draw_explanation(explain(predictor, r["image"], r["caption"], r["phrases"])) for r in chosen
    ]
    width = max(image.shape[1] for image in images)
    padded = [
        np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in images
    ]
    return np.vstack(padded)


def error_images(run: Path, data: Path) -> list[np.ndarray]:
    """The test images with their detections and errors, those with the most errors first."""
    evaluation = run / "inference" / "seen"
    protocol = json.loads((evaluation / "average_recall.json").read_text("utf-8"))
    digest = protocol["protocol"]["annotations"].split()[-1]
    json_file = annotations_with(data, digest)
    content = json.loads(json_file.read_text("utf-8"))
    found = json.loads((evaluation / "lvis_instances_results.json").read_text("utf-8"))
    names: Mapping[int, str] = {c["id"]: c["name"] for c in content["categories"]}
    ordered = errors_of(content, one_name_a_place(found), SURE)
    shown = ordered[:IMAGES] + [one for one in ordered if len(one.found) > 2][-IMAGES:]
    return [
        np.asarray(draw_errors(read_image(json_file.parent / e.image["file_name"]), e, dict(names)))
        for e in shown
    ]


def one_name_a_place(found: Sequence[Record]) -> list[Record]:
    """Detections with high scores after class-agnostic NMS, which keeps one name an object."""
    sure = [one for one in found if one["score"] >= SURE]
    boxes = box_convert(torch.tensor([one["bbox"] for one in sure]).reshape(-1, 4), "xywh", "xyxy")
    scores = torch.tensor([one["score"] for one in sure])
    images = torch.tensor([one["image_id"] for one in sure])
    return [sure[i] for i in batched_nms(boxes, scores, images, NMS_THRESHOLD).tolist()]


def annotations_with(data: Path, digest: str) -> Path:
    """The annotations below a folder with the hash that an evaluation has stored."""
    for path in sorted(data.glob("*/annotations.json")):
        if file_hash(path) == digest:
            return path
    raise UserError(f"{data}: has no annotations with hash {digest}; evaluate the run again")


def sheet(images: Sequence[np.ndarray], columns: int = 3) -> np.ndarray:
    """Images of one size in rows."""
    rows = [
        np.hstack(images[i : i + columns]) for i in range(0, len(images) - columns + 1, columns)
    ]
    return np.vstack(rows) if rows else np.hstack(images)


def save(image: np.ndarray, path: Path) -> None:
    """Write a JPEG of at most `MAX_BYTES`, in the best quality and then the size that fits."""
    shown = Image.fromarray(image)
    shown.thumbnail((MAX_WIDTH, 65_000))
    while True:
        for quality in range(88, 60, -6):
            file = io.BytesIO()
            shown.save(file, format="JPEG", quality=quality, optimize=True)
            if file.tell() <= MAX_BYTES:
                write_whole(path, lambda target, file=file: target.write(file.getvalue()))
                return
        shown.thumbnail((round(0.8 * shown.width), shown.height))

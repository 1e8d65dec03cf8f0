"""Samples a second of one core for each kind of source, the cost of tar shards and of tokens.

Times are processor times, so that other programs disturb little. Real images are in the folder
DETCLIP2_TEST_DATA; without it, only drawn scenes are measured.
"""

import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from detclip2.data.datasets.detection import load_detection_json, names_of_json
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.emojiscenes import EmojiGrounding, EmojiPairs, EmojiScenes
from detclip2.data.io.image import read_image
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.skips import SkipCounter
from detclip2.modeling.text.phrase_tokens import PhraseTokens
from detclip2.modeling.text.text_batch import TextBatch
from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer

from .models import names_of
from .timing import spread

SCENES: dict[str, Callable[..., Sequence]] = {
    "EmojiScenes, detection": EmojiScenes,
    "EmojiScenes, pairs": EmojiPairs,
    "EmojiScenes, grounding": EmojiGrounding,
}


def measure(count: int, repeats: int, size: int) -> dict[str, Any]:
    """A row for each source, ours against Detectron2's mapper, and shards against bare decoding."""
    rows = scenes(count, repeats, size)["samples_a_second_a_core"]
    folder = os.environ.get("DETCLIP2_TEST_DATA")
    if not folder:
        return {"samples_a_second_a_core": rows, "shards": None}
    photos = Path(folder) / "coco_open"
    with tempfile.TemporaryDirectory() as scratch:
        rows += [photographs(photos, Path(scratch), kind, repeats) for kind in PHOTOGRAPHS]
        shards = shards_against_decoding(photos, Path(scratch), repeats)
        pairs_of = against_streams(photos, Path(scratch), repeats)
        of_detectron2 = against_detectron2(photos, Path(scratch), repeats)
    return {
        "samples_a_second_a_core": rows,
        "shards": shards,
        "pairs_of": pairs_of,
        "detection_of_detectron2": of_detectron2,
        "text_of_pairs": text_of_pairs(repeats),
    }


def scenes(count: int, repeats: int, size: int) -> dict[str, Any]:
    """A row for each source of EmojiScenes, all categories."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = [
        {
            "source": name,
            "input": f"{size} x {size}",
            **scenes_a_second(source, count, repeats, size),
        }
        for name, source in SCENES.items()
    ]
    return {"samples_a_second_a_core": rows, "shards": None}


def scenes_a_second(
    source: Callable[..., Sequence], count: int, repeats: int, size: int
) -> dict[str, float]:
    """Samples of drawn scenes."""
    # Each emoji is drawn once and cached; after these samples nearly all are.
    first = 10 * count
    scenes = source(count=first + repeats * count, size=size)
    for index in range(first):
        scenes[index]
    speeds = []
    for repeat in range(repeats):
        indices = range(first + repeat * count, first + (repeat + 1) * count)
        speeds.append(a_second(scenes[index] for index in indices))
    return spread(speeds)


def a_second(items: Iterable[object]) -> float:
    """Samples a second of processor time."""
    start = time.process_time()
    number = sum(1 for _ in items)
    return number / (time.process_time() - start)


def photographs(photos: Path, scratch: Path, kind: str, repeats: int) -> dict[str, Any]:
    """Samples of real images, read, decoded, resized and packed as for training."""
    records, mapper, size = PHOTOGRAPHS[kind](photos, scratch)
    rng = np.random.default_rng(0)
    speeds = [a_second(mapper(record, rng) for record in records) for _ in range(repeats + 1)][1:]
    return {"source": kind, "input": size, **spread(speeds)}


def multi_scale() -> list[T.Augmentation]:
    """The augmentations of configs/data/coco.py."""
    edges = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    return [T.ResizeShortestEdge(edges, 1333, "choice"), T.RandomFlip(horizontal=True)]


def detection(photos: Path, scratch: Path) -> tuple[list[dict[str, Any]], Any, str]:
    """Samples of a COCO json."""
    annotations = str(photos / "annotations" / "instances_train2017.json")
    counter = SkipCounter("benchmark")
    _, records, _ = load_detection_json(annotations, str(photos / "train2017"), counter)
    mapper = DetectionMapper(names_of_json(annotations), multi_scale(), max_phrases=150)
    return records, mapper, "480-800 x 1333"


def against_detectron2(photos: Path, scratch: Path, repeats: int) -> dict[str, float]:
    """Samples a second of our detection mapper, by those of Detectron2's, in turns.

    Both read the same records and have the same augmentations; Detectron2's samples have no
    phrases.
    """
    records, mapper, _ = detection(photos, scratch)
    theirs = DatasetMapper(True, augmentations=multi_scale(), image_format="RGB")
    ratios = []
    for _ in range(repeats + 1):
        rng = np.random.default_rng(0)
        own = a_second(mapper(record, rng) for record in records)
        ratios.append(own / a_second(theirs(record) for record in records))
    return spread(ratios[1:])


def grounding(photos: Path, scratch: Path) -> tuple[list[dict[str, Any]], Any, str]:
    """An MDETR json with a caption that lists the objects of an image."""
    content = json.loads((photos / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    images, annotations = [], []
    for image in content["images"]:
        boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        labels = sorted({names[box["category_id"]] for box in boxes})
        caption = " and ".join(f"a {label}" for label in labels)
        images.append({**image, "caption": caption})
        for box in boxes:
            begin = caption.index(f"a {names[box['category_id']]}") + 2
            end = begin + len(names[box["category_id"]])
            annotations.append({**box, "tokens_positive": [[begin, end]]})
    file = scratch / "grounding.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    records = mdetr_records(str(file), str(photos / "train2017"))
    usable = [record for record in records if record["annotations"]]
    mapper = GroundingMapper(multi_scale(), max_phrases=100, negatives=sorted(names.values()))
    return usable, mapper, "480-800 x 1333"


def pairs(photos: Path, scratch: Path) -> tuple[list[dict[str, Any]], Any, str]:
    """Tar shards, resized to the paper's 320 x 320."""
    shards = ImageTextShards(make_shard(photos, scratch))
    mapper = CaptionMapper([T.Resize((320, 320))])
    return list(shards), mapper, "320 x 320"


def against_streams(photos: Path, scratch: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Pairs a second from a shard in random order, by those of streams in order, in turns.

    Nothing is decoded. The streams are ours and webdataset's, without their shuffle buffers.
    """
    path = make_shard(photos, scratch)
    shards = ImageTextShards(path)
    order = np.random.default_rng(0).permutation(len(shards)).tolist()
    loops: dict[str, Callable[[], Iterable[object]]] = {
        "webdataset": lambda: webdataset.WebDataset(path, shardshuffle=False, empty_check=False),
        "stream": lambda: ImageTextStream(path),
    }
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats + 1):
        for name, loop in loops.items():
            own = a_second(shards[index] for _ in range(5) for index in order)
            ratios[name].append(own / a_second(pair for _ in range(5) for pair in loop()))
    return {name: spread(values[1:]) for name, values in ratios.items()}


def text_of_pairs(repeats: int, count: int = 192, phrases: int = 7) -> dict[str, Any]:
    """Milliseconds of the process that trains, from the samples of a step to tokens in tensors.

    Args:
        repeats: steps; no phrase comes again.
        count: image-text pairs, a process's share of the paper's batch.
        phrases: of each pair.
    """
    torch.set_num_threads(1)
    tower = "resource://text_tower_photo"
    reader = TextTower(load_text_model(tower, pretrained=False), load_tokenizer(tower))
    tokens_of = PhraseTokens(reader.tokenizer, reader.max_length)
    names = iter(f"a {a} and a {b} near it" for a in names_of(1000) for b in names_of(1000))

    def encode(phrases: list[str], tokens: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        made = reader.tokenize(phrases) if tokens is None else reader.joined(tokens)
        return made["input_ids"]

    found: dict[str, list[float]] = {"by_phrases": [], "by_tokens": []}
    for _ in range(repeats + 1):
        samples: list[dict[str, Any]] = [
            {"phrases": list(islice(names, phrases)), "num_positives": phrases}
            for _ in range(count)
        ]
        for name, times in found.items():
            if name == "by_tokens":
                for sample in samples:  # in the loader's workers
                    sample["phrase_tokens"] = tokens_of(sample["phrases"])
            start = time.process_time()
            TextBatch.from_samples(samples, encode)
            times.append(1000 * (time.process_time() - start))
    return {
        "pairs": count,
        "phrases": phrases,
        **{name: spread(times[1:]) for name, times in found.items()},
    }


PHOTOGRAPHS: dict[str, Callable[[Path, Path], tuple[list[dict[str, Any]], Any, str]]] = {
    "detection json, photographs": detection,
    "grounding json, photographs": grounding,
    "tar shards, photographs": pairs,
}


def make_shard(photos: Path, scratch: Path, count: int = 100) -> str:
    """A tar of real images with captions, each image several times; written once."""
    path = scratch / "shard.tar"
    if not path.exists():
        files = sorted((photos / "train2017").glob("*.jpg"))
        with tarfile.open(path, "w") as tar:
            for number, file in enumerate(islice(cycle(files), count)):
                for ending, data in (("jpg", file.read_bytes()), ("txt", b"a dog and a red kite")):
                    member = tarfile.TarInfo(f"{number:06}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(path)


def shards_against_decoding(photos: Path, scratch: Path, repeats: int) -> dict[str, Any]:
    """Reading and decoding shards, as a share of the speed of decoding alone, in turns."""
    shard = make_shard(photos, scratch)
    shards = ImageTextShards(shard)
    with tarfile.open(shard) as tar:
        members = [tar.extractfile(member) for member in tar if member.name.endswith("jpg")]
        data = [member.read() for member in members if member is not None]

    def ours() -> Iterator[np.ndarray]:
        for record in shards:
            yield read_image(record["image_bytes"])

    def bare() -> Iterator[np.ndarray]:
        for jpeg in data:
            decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            yield cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

    def bare_pillow() -> Iterator[np.ndarray]:
        from PIL import Image

        for jpeg in data:
            yield np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))

    rows: dict[str, list[float]] = {"ours": [], "cv2": [], "pillow": []}
    for _ in range(repeats + 1):
        for name, loop in (("ours", ours), ("cv2", bare), ("pillow", bare_pillow)):
            rows[name].append(a_second(loop()))
    medians = {name: statistics.median(speeds[1:]) for name, speeds in rows.items()}
    shares = {
        f"of_{name}": spread([a / b for a, b in zip(rows["ours"][1:], rows[name][1:], strict=True)])
        for name in ("cv2", "pillow")
    }
    return {"images_a_second": {k: round(v) for k, v in medians.items()}, **shares}

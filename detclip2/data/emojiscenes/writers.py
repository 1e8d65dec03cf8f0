"""Writers of EmojiScenes' grounding and image-text data, in formats that readers of real data read.

These are MDETR/GLIP json with a folder of images, and WebDataset tar shards.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import webdataset

from detclip2.utils.errors import UserError

JPEG_QUALITY = 95


def encode_jpeg(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 RGB as JPEG of high quality."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` when it is complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_grounding_json(records: Sequence[dict[str, Any]], folder: str | Path) -> Path:
    """Write grounding records as MDETR/GLIP json: `folder`/annotations.json and `folder`/images/.

    Args:
        records: records of `EmojiGrounding`.
        folder: the output folder.

    Returns:
        The path of the json.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with _replacing(folder / "annotations.json") as json_file:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for number in range(len(records)):
            record = records[number]
            name = f"{number:06d}.jpg"
            (folder / "images" / name).write_bytes(encode_jpeg(record["image"]))
            images.append(
                {
                    "id": number + 1,
                    "file_name": name,
                    "height": record["height"],
                    "width": record["width"],
                    "caption": record["caption"],
                    "dataset_name": "emoji",
                }
            )
            for item in record["annotations"]:
                left, top, right, bottom = item["bbox"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": item["area"],
                        "iscrowd": 0,
                        "tokens_positive": item["tokens_positive"],
                        **{key: item[key] for key in ("segmentation",) if key in item},
                    }
                )
        content = {
            "info": {"description": "EmojiScenes, grounding"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
        }
        json_file.write_text(json.dumps(content), encoding="utf-8")
    return folder / "annotations.json"


def write_caption_shards(
    records: Sequence[dict[str, Any]],
    folder: str | Path,
    shard_size: int = 1000,
    with_phrases: bool = True,
) -> list[Path]:
    """Write caption records as WebDataset shards `folder`/00000.tar, 00001.tar, ...

    The same records give the same bytes.

    Args:
        records: records of `EmojiPairs`; a sample is `.jpg` and `.txt` (the caption).
        folder: the output folder.
        shard_size: maximum number of samples of a shard.
        with_phrases: whether samples have `.json` with the noun `phrases`.

    Returns:
        The paths of the shards.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = []
    for shard, start in enumerate(range(0, len(records), shard_size)):
        path = Path(folder) / f"{shard:05d}.tar"
        with _replacing(path) as partial, webdataset.TarWriter(str(partial), mtime=0) as tar:
            for number in range(start, min(start + shard_size, len(records))):
                record = records[number]
                sample = {
                    "__key__": f"{number:08d}",
                    "jpg": encode_jpeg(record["image"]),
                    "txt": record["caption"],
                }
                if with_phrases:
                    sample["json"] = {"phrases": record["phrases"]}
                tar.write(sample)
        paths.append(path)
    return paths

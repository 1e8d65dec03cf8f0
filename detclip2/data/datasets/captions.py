"""Image-text pairs from lists with a folder of images: tsv, jsonl, and COCO captions.

A caption record has an image (``file_name`` or ``image_bytes``), ``image_id``, and ``caption``
(text or UTF-8 bytes) or ``captions`` (of which one is drawn each time); optionally ``phrases``,
its noun phrases, made ahead.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from detclip2.data.datasets.detection import read_json
from detclip2.data.io.lines import LineFile
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError


class CaptionTsv(Sequence[dict[str, Any]]):
    """CC3M/CC12M's list of captions and URLs, with the images in a folder.

    Args:
        tsv_file: one pair a line, tab between: ``caption<TAB>url`` (CC3M). For CC12M, which has
            them the other way round, ``caption_column=1, url_column=0``.
        image_root: the folder of the images.
        file_name: how an image is called in it: a format string with ``index`` (number of the
            line, from 0), ``md5`` and ``sha1`` (of the URL, hex), such as "{md5}.jpg". An image
            that is not there is counted and skipped: many links are dead.
        caption_column: column of the caption.
        url_column: column of the URL; may be absent where `file_name` needs ``index`` alone.

    Raises:
        UserError: if the file cannot be read or `file_name` is no such format. A line with too few
            columns raises SkipSample when it is asked for.
    """

    def __init__(
        self,
        tsv_file: str,
        image_root: str,
        file_name: str = "{index:09d}.jpg",
        caption_column: int = 0,
        url_column: int = 1,
    ):
        self.lines = LineFile(tsv_file)
        self.image_root = image_root
        self.file_name = file_name
        self.caption_column = caption_column
        self.url_column = url_column
        try:
            self._image_path(0, b"")
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"file_name {file_name!r} is no format of index, md5 and sha1: {error!r}"
            ) from error

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index):
        """One record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        columns = self.lines[index].split(b"\t")
        if len(columns) <= self.caption_column:
            where = f"{self.lines.path}, line {index + 1}"
            raise SkipSample("record-malformed", f"{where}: no column {self.caption_column}")
        url = columns[self.url_column] if len(columns) > self.url_column else b""
        return {
            "file_name": self._image_path(index, url),
            "image_id": index,
            "caption": columns[self.caption_column],
        }

    def _image_path(self, index: int, url: bytes) -> str:
        names = {
            "index": index,
            "md5": hashlib.md5(url.strip(), usedforsecurity=False).hexdigest(),
            "sha1": hashlib.sha1(url.strip(), usedforsecurity=False).hexdigest(),
        }
        return os.path.join(self.image_root, self.file_name.format(**names))


class CaptionJsonl(Sequence[dict[str, Any]]):
    """Pairs as json, one a line: ``{"image", "caption", "phrases"?}``.

    Args:
        jsonl_file: the file; ``image`` is relative to `image_root`, ``caption`` a string or a list
            of them (one is drawn each time), ``phrases`` the caption's noun phrases.
        image_root: the folder of the images.

    Raises:
        UserError: if the file cannot be read. A line that is not in the format raises SkipSample
            when it is asked for.
    """

    def __init__(self, jsonl_file: str, image_root: str):
        self.lines = LineFile(jsonl_file)
        self.image_root = image_root

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index):
        """One record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        try:
            line = json.loads(self.lines[index])
            caption = line["caption"]
            record = {
                "file_name": os.path.join(self.image_root, line["image"]),
                "image_id": line.get("image_id", index),
                ("captions" if isinstance(caption, list) else "caption"): caption,
            }
            return {**record, "phrases": line["phrases"]} if "phrases" in line else record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"{self.lines.path}, record {index}"
            raise SkipSample("record-malformed", f"{where}: {error!r}") from error


def coco_caption_records(
    json_file: str, image_root: str, counter: SkipCounter | None = None
) -> list[dict[str, Any]]:
    """Records of a COCO-captions json: one for each image that has captions, with all of them.

    Captions of one image are together because in one batch they would be negatives of each other.

    Args:
        json_file: with ``images`` and ``annotations`` (``image_id``, ``caption``).
        image_root: the folder of the images.
        counter: captions of unknown images and double ids are counted here.

    Raises:
        UserError: if the file is missing or not of this format.
    """
    counter = counter or SkipCounter("COCO captions")
    content = read_json(json_file, ("images", "annotations"))
    records: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if "id" not in image or "file_name" not in image:
            counter.add("record-malformed", f"{json_file}: image {str(image)[:80]}")
        elif image["id"] in records:
            counter.add("image-duplicate", f"{json_file}: image id {image['id']}")
        else:
            records[image["id"]] = {
                "file_name": os.path.join(image_root, image["file_name"]),
                **{key: image[key] for key in ("height", "width") if key in image},
                "image_id": image["id"],
                "captions": [],
            }
    for annotation in content["annotations"]:
        where = f"{json_file}: annotation {annotation.get('id')}"
        record = records.get(annotation.get("image_id"))
        caption = annotation.get("caption")
        if record is None:
            counter.add("image-unknown", f"{where} of image {annotation.get('image_id')}")
        elif not isinstance(caption, str) or not caption.strip():
            counter.add("caption-empty", where)
        else:
            record["captions"].append(caption)
    counter.log()
    return [record for record in records.values() if record["captions"]]

"""Image-text pairs from list files and a folder of images: tsv, jsonl, and COCO captions.

A caption record has an image (``file_name`` or ``image_bytes``), ``image_id``, and ``caption``
(text or UTF-8 bytes) or ``captions`` (each sample draws one of them). It may have ``phrases``, noun
phrases that were extracted beforehand.
"""

import hashlib
from typing import Any

from detclip2.data.io.coco_json import count_problems, image_records, read_json
from detclip2.data.io.coco_parser import parse_coco
from detclip2.data.io.lines import JsonLines, LazyRecords, LineFile
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError, shown
from detclip2.utils.paths import path_in


class CaptionTsv(LazyRecords[dict[str, Any]]):
    """CC3M/CC12M's list of captions and URLs, with the images in a folder.

    Args:
        tsv_file: one image-text pair a line: ``caption<TAB>url`` (CC3M). CC12M has
            ``url<TAB>caption`` and needs ``caption_column=1, url_column=0``.
        image_root: the folder of the images.
        file_name: format string of an image's name in the folder, with ``index`` (number of the
            line, from 0), ``md5`` and ``sha1`` (of the URL, hex), such as "{md5}.jpg". The mapper
            skips and counts missing images: many links are dead.
        caption_column: column of the caption, from 0.
        url_column: column of the URL, from 0; may be absent if `file_name` needs ``index`` alone.

    Raises:
        UserError: the file cannot be read, or `file_name` is not such a format. Access to a line
            with too few columns raises SkipSample.
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
            self._image_name(0, b"")
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"file_name {file_name!r} is no format of index, md5 and sha1: {error!r}"
            ) from error

    def __len__(self) -> int:
        return len(self.lines)

    def _record(self, index: int) -> dict[str, Any]:
        columns = self.lines[index].split(b"\t")
        if len(columns) <= self.caption_column:
            where = f"{self.lines.path}, line {index + 1}"
            raise SkipSample("record-malformed", f"{where}: no column {self.caption_column}")
        url = columns[self.url_column] if len(columns) > self.url_column else b""
        try:
            path = path_in(self.image_root, self._image_name(index, url))
        except UserError as error:
            raise SkipSample("record-malformed", str(error)) from error
        return {
            "file_name": path,
            "image_id": index,
            "caption": columns[self.caption_column],
        }

    def _image_name(self, index: int, url: bytes) -> str:
        names = {
            "index": index,
            "md5": hashlib.md5(url.strip(), usedforsecurity=False).hexdigest(),
            "sha1": hashlib.sha1(url.strip(), usedforsecurity=False).hexdigest(),
        }
        return self.file_name.format(**names)


class CaptionJsonl(JsonLines):
    """Image-text pairs as json, one a line: ``{"image", "caption", "phrases"?}``.

    ``image`` is relative to the folder of images; ``caption`` is a string or a list of them (each
    sample draws one); ``phrases`` are the caption's noun phrases.

    Args:
        jsonl_file: the file.
        image_root: the folder of the images.

    Raises:
        UserError: the file cannot be read. Access to a line that is not in the format raises
            SkipSample.
    """

    def _parse(self, line: Any, index: int) -> dict[str, Any]:
        caption = line["caption"]
        record = {
            "file_name": self._path(line["image"]),
            "image_id": line.get("image_id", index),
            ("captions" if isinstance(caption, list) else "caption"): caption,
        }
        return {**record, "phrases": line["phrases"]} if "phrases" in line else record


def coco_caption_records(
    json_file: str, image_root: str, counter: SkipCounter | None = None
) -> list[dict[str, Any]]:
    """Records of a COCO-captions json: one for each image that has captions, with all of them.

    An image has one record, since several in one batch would be negatives of each other.

    Args:
        json_file: has ``images`` and ``annotations`` (``image_id``, ``caption``).
        image_root: the folder of the images.
        counter: counts captions of unknown images and duplicate ids.

    Raises:
        UserError: the file is missing or not in this format.
    """
    counter = counter or SkipCounter("COCO captions")
    keys: dict[str, tuple[str, ...]] = {"images": ("id", "file_name"), "annotations": ()}
    parsed = parse_coco(json_file, read_json(json_file, keys), keys, annotation_ids=False)
    records = image_records(parsed, lambda _: image_root, lambda _: {"captions": []})
    for annotation in parsed.annotations:
        caption = annotation.get("caption")
        if isinstance(caption, str) and caption.strip():
            records[annotation["image_id"]]["captions"].append(caption)
        else:
            counter.add("caption-empty", f"{json_file}: annotation {shown(annotation.get('id'))}")
    count_problems(parsed, counter)
    return [record for record in records.values() if record["captions"]]

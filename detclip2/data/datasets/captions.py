"""Image-text pairs from list files and a folder of images: tsv, jsonl, COCO and Karpathy's splits.

A caption record has an image (``file_name`` or ``image_bytes``), ``image_id``, and ``caption``
(text or UTF-8 bytes) or ``captions`` (each sample draws one of them). It may have ``phrases``, noun
phrases that were extracted beforehand.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from detclip2.data.io.coco_json import count_problems, image_records, read_json
from detclip2.data.io.coco_parser import parse_coco
from detclip2.data.io.coco_values import id_of
from detclip2.data.io.lines import JsonLines, LazyRecords, LineFile
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError, shown
from detclip2.utils.paths import FolderOfFiles, path_in


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


def karpathy_records(
    json_file: str,
    image_root: str,
    splits: Sequence[str] = ("train", "restval"),
    counter: SkipCounter | None = None,
) -> list[dict[str, Any]]:
    """Records of Karpathy's splits of COCO, Flickr30k or Flickr8k: one an image, with all captions.

    Args:
        json_file: has ``images`` (``split``, ``filename``, ``sentences`` with ``raw``, and, of
            COCO, ``filepath``, the folder of the image, and ``cocoid``).
        image_root: the folder of the images, or of the folders of COCO's images.
        splits: "train", "restval" (the rest of COCO's val2014, which papers train on too), "val",
            "test".
        counter: counts images without captions and entries that are not in the format.

    Raises:
        UserError: the file is missing or not in this format, or has no image of these splits.
    """
    counter = counter or SkipCounter("Karpathy's splits")
    images = read_json(json_file, ("images",))["images"]
    if not isinstance(images, list):
        raise UserError(f"{json_file}: 'images' is not a list of objects")
    files = FolderOfFiles(image_root)
    records: dict[int | str, dict[str, Any]] = {}
    for number, image in enumerate(images):
        where = f"{json_file}: image {number}"
        name = _file_name(image)
        if name is None:
            counter.add("record-malformed", f"{where} has no filename")
            continue
        if image.get("split") not in splits:
            continue
        image_id = id_of(image.get("cocoid", image.get("imgid", number)))
        captions = _raw_captions(image.get("sentences"))
        if not captions or image_id in records:
            counter.add("image-duplicate" if captions else "caption-empty", where)
            continue
        records[image_id] = {
            "file_name": files.path(name),
            "image_id": image_id,
            "captions": captions,
        }
    counter.log()
    if not records:
        raise UserError(f"{json_file}: there is no image with captions in {list(splits)}")
    return list(records.values())


def _file_name(image: Any) -> str | None:
    """The file of an image, with its folder; None if it has none. No name has a zero byte."""
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        return None
    folder = str(image.get("filepath") or "")
    name = f"{folder}/{image['filename']}" if folder else image["filename"]
    return None if "\0" in name else name


def _raw_captions(sentences: Any) -> list[str]:
    """The captions of an image as people wrote them, without empty ones."""
    listed = sentences if isinstance(sentences, list) else []
    texts = [one.get("raw") for one in listed if isinstance(one, dict)]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]

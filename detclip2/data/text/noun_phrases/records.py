"""Records of captions with their noun phrases, from text files and tar shards."""

import codecs
import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from detclip2.data.io.tar_pairs import (
    PHRASES_SUFFIX,
    Pair,
    read_members,
    read_pairs,
    split_name,
)
from detclip2.data.text.noun_phrases.extract import MAX_PHRASES, Backend, extract_stream
from detclip2.utils.files import json_bytes
from detclip2.utils.json_text import parse_json

FORMATS = ("txt", "tsv", "jsonl", "tar")


@dataclass(frozen=True)
class Options:
    """Options of the extraction, which decide the output together with the input files.

    Attributes:
        backend: see `detclip2.data.text.noun_phrases.extract_noun_phrases`.
        max_phrases: maximum number of phrases of a caption.
        caption_column: column of the caption in a tsv, from 0.
        url_column: column of the URL in a tsv, from 0; it may be absent.
        caption_key: key of the caption in a jsonl.
        image_name: for a tsv, format string of the image's name in its folder, with ``index``,
            ``md5`` and ``sha1`` (of the URL); "" writes no image name.
        copy_shards: write shards with a ``.phrases.json`` for each caption instead of jsonl.
    """

    backend: Backend = "auto"
    max_phrases: int = MAX_PHRASES
    caption_column: int = 0
    url_column: int = 1
    caption_key: str = "caption"
    image_name: str = ""
    copy_shards: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the input, which one process handles as a unit.

    Attributes:
        number: number among the parts of all inputs, used in the name of the output.
        path: the input file.
        format: one of `FORMATS`.
        start, end: range of bytes of the file, except for tar.
        first_index: number of its first line in the file, from 0, without blank lines.
    """

    number: int
    path: str
    format: str
    start: int = 0
    end: int = 0
    first_index: int = 0

    def output(self, folder: Path, options: Options) -> Path:
        """The path of the output."""
        if self.format == "tar" and options.copy_shards:
            return folder / Path(self.path).name
        return folder / f"phrases-{self.number:06d}.jsonl"

    def counts(self, folder: Path) -> Path:
        """The path of the counts."""
        return folder / "counts" / f"{self.number:06d}.json"


def read_records(part: Part, options: Options, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The records of a part, with caption and phrases; skipped entries are counted."""
    if part.format == "tar":
        for pair, text, phrases in _shard_phrases(part.path, options, counts):
            yield {"shard": part.path, "key": pair.key, "caption": text, "phrases": phrases}
        return
    read = {"txt": _read_txt, "tsv": _read_tsv, "jsonl": _read_jsonl}[part.format]
    with open(part.path, "rb") as file:
        file.seek(part.start)
        content = file.read(part.end - part.start)
        content = content if part.start else content.removeprefix(codecs.BOM_UTF8)
        lines = (line.rstrip(b"\r\n") for line in io.BytesIO(content))

        def records() -> Iterator[tuple[dict[str, Any], Any]]:
            for index, line in enumerate(filter(bytes.strip, lines), part.first_index):
                record = read(line, index, options)
                if record is None:
                    counts["record-malformed"] += 1
                else:
                    yield record, record[options.caption_key]

        for record, found, phrases in _with_phrases(records(), options, counts):
            if found is not None:
                yield {**record, options.caption_key: found, "phrases": phrases}
            elif _are_several(record[options.caption_key]):
                yield {key: value for key, value in record.items() if key != "phrases"}


def _read_txt(line: bytes, index: int, options: Options) -> dict[str, Any] | None:
    return {"image_id": index, options.caption_key: line}


def _read_tsv(line: bytes, index: int, options: Options) -> dict[str, Any] | None:
    columns = line.split(b"\t")
    if len(columns) <= options.caption_column:
        return None
    url = columns[options.url_column] if len(columns) > options.url_column else b""
    record: dict[str, Any] = {"image_id": index, "url": url.decode(errors="replace")}
    if options.image_name:
        record["image"] = options.image_name.format(
            index=index,
            md5=hashlib.md5(url.strip(), usedforsecurity=False).hexdigest(),
            sha1=hashlib.sha1(url.strip(), usedforsecurity=False).hexdigest(),
        )
    return {**record, options.caption_key: columns[options.caption_column]}


def _read_jsonl(line: bytes, index: int, options: Options) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and options.caption_key in record else None


Item = TypeVar("Item")


def _with_phrases(
    captions: Iterable[tuple[Item, Any]], options: Options, counts: Counter[str]
) -> Iterator[tuple[Item, str | None, list[str]]]:
    """Each item with the text of its caption and the phrases in it; both are counted.

    Args:
        captions: item and caption: text, UTF-8 bytes or a list of texts, as `CaptionMapper` reads
            it. Without valid text, None comes back for it.
        options: the options.
        counts: what is counted.
    """
    texts = ((item, _text(caption, counts)) for item, caption in captions)
    stream = ((text or "", (item, text)) for item, text in texts)
    for phrases, (item, text) in extract_stream(stream, options.backend, options.max_phrases):
        if text is not None:
            counts["captions"] += 1
            counts["phrases"] += len(phrases)
            counts["caption-without-phrase"] += not phrases
        yield item, text, phrases


def _text(caption: Any, counts: Counter[str]) -> str | None:
    """The text of a caption; None, counted by kind, if it has no valid one."""
    if _are_several(caption):
        counts["caption-several"] += 1
        return None
    if isinstance(caption, list):
        caption = caption[0] if caption else None
    if caption is None:
        caption = ""
    if not isinstance(caption, str | bytes):
        counts["record-malformed"] += 1
        return None
    try:
        # json may have lone surrogates, which UTF-8 cannot encode.
        text = caption.decode() if isinstance(caption, bytes) else caption.encode().decode()
    except UnicodeError:
        counts["caption-encoding"] += 1
        return None
    if not text.strip():
        counts["caption-empty"] += 1
        return None
    return text


def _are_several(caption: Any) -> bool:
    """Whether these are several captions, of which each sample of a training draws one."""
    return isinstance(caption, list) and len(caption) > 1


def _shard_phrases(
    path: str, options: Options, counts: Counter[str]
) -> Iterator[tuple[Pair, str, list[str]]]:
    """The captions of a shard, each with its text and its phrases.

    Those without an image are read too, and counted.
    """

    def count(kind: str, _: str) -> None:
        counts[kind] += 1

    with open(path, "rb") as stream:

        def pairs() -> Iterator[tuple[Pair, Any]]:
            for pair in read_pairs(stream, path, count):
                counts["image-unreadable"] += pair.image is None
                # spaCy's batches hold many pairs, of which the images are not needed.
                yield pair._replace(image=None), pair.caption

        for pair, text, phrases in _with_phrases(pairs(), options, counts):
            if text is not None:
                yield pair, text, phrases


def copy_shard(part: Part, file: IO[bytes], options: Options, counts: Counter[str]) -> None:
    """Write a shard's files to `file`, and after each caption its ``.phrases.json``."""
    added: dict[str, list[list[str]]] = {}  # by the member with the caption; names may repeat
    for pair, _, phrases in _shard_phrases(part.path, options, counts):
        added.setdefault(f"{pair.key}.{pair.caption_name}", []).append(phrases)
    with open(part.path, "rb") as stream, tarfile.open(fileobj=file, mode="w|") as copy:
        # What cannot be read has been counted above.
        for member, content in read_members(stream, part.path, lambda kind, message: None):
            key, suffix = split_name(member.name) or ("", "")
            if suffix == PHRASES_SUFFIX:
                continue  # from an earlier run
            copy.addfile(member, io.BytesIO(content))
            if ready := added.get(f"{key}.{suffix}"):
                text = json_bytes(ready.pop(0))
                info = tarfile.TarInfo(f"{key}.{PHRASES_SUFFIX}")
                info.size, info.mtime = len(text), member.mtime
                copy.addfile(info, io.BytesIO(text))

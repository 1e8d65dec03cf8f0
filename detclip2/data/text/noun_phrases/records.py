"""Records of captions with their noun phrases, from text files and tar shards."""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from detclip2.data.text.noun_phrases.extract import MAX_PHRASES, Backend, extract_noun_phrases

FORMATS = ("txt", "tsv", "jsonl", "tar")


@dataclass(frozen=True)
class Options:
    """Options of the extraction, which decide the output together with the input files.

    Attributes:
        backend: see `extract_noun_phrases`.
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
        for name, raw in _shard_captions(part.path, counts):
            phrases = _phrases(raw, options, counts)
            if phrases is not None:
                yield {
                    "shard": part.path,
                    "key": name,
                    "caption": raw.decode(),
                    "phrases": phrases,
                }
        return
    read = {"txt": _read_txt, "tsv": _read_tsv, "jsonl": _read_jsonl}[part.format]
    with open(part.path, "rb") as file:
        file.seek(part.start)
        lines = (line.rstrip(b"\r\n") for line in io.BytesIO(file.read(part.end - part.start)))
        for index, line in enumerate(filter(bytes.strip, lines), part.first_index):
            record = read(line, index, options)
            if record is None:
                counts["record-malformed"] += 1
                continue
            caption = record[options.caption_key]
            phrases = _phrases(caption, options, counts)
            if phrases is not None:
                text = caption.decode() if isinstance(caption, bytes) else caption
                yield {**record, options.caption_key: text, "phrases": phrases}


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
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_usable = isinstance(record, dict) and isinstance(record.get(options.caption_key), str)
    return record if is_usable else None


def _phrases(caption: str | bytes, options: Options, counts: Counter[str]) -> list[str] | None:
    """The phrases of a caption; None if it has no valid text. Both are counted."""
    try:
        # json may have lone surrogates, which UTF-8 cannot encode.
        text = caption.decode() if isinstance(caption, bytes) else caption.encode().decode()
    except UnicodeError:
        counts["caption-encoding"] += 1
        return None
    if not text.strip():
        counts["caption-empty"] += 1
        return None
    phrases = extract_noun_phrases(text, options.backend, options.max_phrases)
    counts["captions"] += 1
    counts["phrases"] += len(phrases)
    counts["caption-without-phrase"] += not phrases
    return phrases


def _members(path: str, counts: Counter[str]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a shard, up to any damage."""
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isfile():
                    file = tar.extractfile(member)
                    yield member, file.read() if file else b""
        if path.endswith(".tar") and _is_cut_short(path):
            counts["shard-unreadable"] += 1
    except (tarfile.TarError, OSError, EOFError):
        counts["shard-unreadable"] += 1


def _is_cut_short(path: str) -> bool:
    """Whether a tar lacks its final zeros; tarfile does not notice a cut between two files."""
    with open(path, "rb") as file:
        file.seek(-512, os.SEEK_END)
        return any(file.read())


def _shard_captions(path: str, counts: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for member, content in _members(path, counts):
        if member.name.endswith(".txt"):
            yield member.name.removesuffix(".txt"), content


def copy_shard(part: Part, file: IO[bytes], options: Options, counts: Counter[str]) -> None:
    """Write a shard's files to `file`, and after each caption its ``.phrases.json``."""
    with tarfile.open(fileobj=file, mode="w|") as copy:
        for member, content in _members(part.path, counts):
            if member.name.endswith(".phrases.json"):
                continue  # from an earlier run
            copy.addfile(member, io.BytesIO(content))
            if member.name.endswith(".txt"):
                phrases = _phrases(content, options, counts)
                if phrases is not None:
                    added = tarfile.TarInfo(member.name.removesuffix("txt") + "phrases.json")
                    text = json.dumps(phrases, ensure_ascii=False).encode()
                    added.size, added.mtime = len(text), member.mtime
                    copy.addfile(added, io.BytesIO(text))

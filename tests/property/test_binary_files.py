"""Damaged images, videos, vocabularies, weights and tar shards."""

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from detclip2.data.io.image import check_image, read_image
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.io.tar import is_compressed
from detclip2.data.io.tar_pairs import read_pairs
from detclip2.data.io.video import Video
from detclip2.data.mappers import CaptionMapper
from detclip2.data.sample import SkipSample, check_sample
from detclip2.data.text.noun_phrases.records import Options, Part, copy_shard, read_records
from detclip2.inference.vocabulary import Vocabulary
from detclip2.inference.vocabulary_file import write_vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.weights import read_weights
from tests.helpers import videos
from tests.helpers.damage import damaged_bytes, json_text, not_finite, trees
from tests.helpers.fuzzing import result_of, rewrite
from tests.helpers.tars import tar_bytes

pytestmark = pytest.mark.slow  # 2,000 files a test

PIXELS = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
# Format -> further arguments of Pillow.
FORMATS = {
    "PNG": {}, "JPEG": {}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "BMP": {},
    "ICO": {"sizes": [(8, 8)]}, "PPM": {}, "TGA": {}, "JPEG2000": {}, "AVIF": {},
}  # fmt: skip


def encoded(kind, arguments):
    file = io.BytesIO()
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 6
    with_exif = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    image.save(file, kind, **with_exif, **arguments)
    return file.getvalue()


@given(damaged_bytes(*(encoded(*one) for one in FORMATS.items())))
def test_images(folder, content):
    image = result_of(read_image, content, "the image")
    header = result_of(check_image, rewrite(folder / "image.png", content))
    if image is not None:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
    if image is not None and header is not None:
        assert header.size == (image.shape[1], image.shape[0])


@pytest.fixture(scope="module")
def small_videos(tmp_path_factory):
    """The bytes of a video of 4 frames in each container."""
    folder = tmp_path_factory.mktemp("videos")
    images = [np.full((16, 16, 3), 60 * i, np.uint8) for i in range(4)]
    files = {"a.mp4": "libx264", "a.mkv": "libx264", "a.avi": "mpeg4", "a.ts": "mpeg2video"}
    return [
        videos.write(folder / name, images, codec).read_bytes() for name, codec in files.items()
    ]


def frames_of(path):
    return list(Video(path).frames())


def test_videos(folder, small_videos):
    @given(damaged_bytes(*small_videos))
    def check(content):
        frames = result_of(frames_of, rewrite(folder / "video.mp4", content))
        times = [frame.time for frame in frames or ()]
        assert times == sorted(times)
        assert not not_finite(times)

    check()


def vocabulary_file(folder):
    fields = {
        "labels": ["a", "b"], "prompts": [[["a"]], [["b", "c"]]], "templates": ["{}"],
        "thresholds": [0.1, 0.5], "synonyms": "mean", "encoder": "x",
        "embeddings": torch.eye(2, 4), "probe": torch.ones(4) / 2,
    }  # fmt: skip
    write_vocabulary(folder / "v.safetensors", fields)
    return (folder / "v.safetensors").read_bytes()


def test_vocabularies(folder):
    original = vocabulary_file(folder)
    length = int.from_bytes(original[:8], "little")
    header, tensors = json.loads(original[8 : 8 + length]), original[8 + length :]
    texts = header.pop("__metadata__")
    fields = {
        key: json.loads(texts.pop(key)) for key in ("labels", "prompts", "templates", "thresholds")
    }

    def file_of(tree):
        inner, others = tree if isinstance(tree, list) and len(tree) == 2 else (tree, texts)
        metadata = dict(others) if isinstance(others, dict) else {}
        if isinstance(inner, dict):
            metadata |= {key: json_text(value).decode() for key, value in inner.items()}
        metadata = {
            key: value if isinstance(value, str) else str(value) for key, value in metadata.items()
        }
        written = json.dumps({"__metadata__": metadata, **header}).encode()
        return len(written).to_bytes(8, "little") + written + tensors

    @given(st.one_of(trees([fields, texts]).map(file_of), damaged_bytes(original)))
    def check(content):
        vocabulary = result_of(Vocabulary.load, rewrite(folder / "v.safetensors", content))
        if vocabulary is None:
            return
        assert all(isinstance(label, str) for label in vocabulary.labels)
        texts = [text for rows in vocabulary.prompts for row in rows for text in row]
        assert all(isinstance(text, str) for text in texts)
        assert not not_finite([vocabulary.embeddings, vocabulary.probe, vocabulary.thresholds])
        assert isinstance(vocabulary.description, str)

    check()


def weights_files():
    state = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2)}
    file = io.BytesIO()
    torch.save({"model": state}, file)
    return {".safetensors": save(state), ".pth": file.getvalue()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights(folder, suffix):
    @given(damaged_bytes(weights_files()[suffix]))
    def check(content):
        state = result_of(read_weights, rewrite(folder / f"weights{suffix}", content))
        assert state is None or all(isinstance(one, torch.Tensor) for one in state.values())

    check()


MAPPER = CaptionMapper()
PNG = encoded("PNG", {})
MEMBERS = [
    ["0.png", "image"], ["0.txt", "a red dog"],
    ["1.json", {"caption": "two cats", "phrases": ["two cats"]}],
    ["1.png", "image"], ["1.phrases.json", ["cats"]],
]  # fmt: skip


def shard_of(tree):
    """A tar of damaged members, whose names and contents may be anything."""
    members = []
    for entry in tree if isinstance(tree, list) else [tree]:
        name, content = entry if isinstance(entry, list) and len(entry) == 2 else ("2.txt", entry)
        content = PNG if content == "image" else json_text(content)
        members.append(
            (str(name)[:99].encode(errors="replace").decode().replace("\x00", ""), content)
        )
    return tar_bytes(members)


SHARD = tar_bytes([("0.png", PNG), ("0.txt", b"a red dog"), ("1.json", b'{"caption": "two cats"}')])


@given(st.one_of(trees(MEMBERS).map(shard_of), damaged_bytes(SHARD)))
def test_shards(folder, content):
    path = str(rewrite(folder / "shard.tar", content))
    before = MAPPER.counter.total()
    stream = ImageTextStream(path, counter=MAPPER.counter)
    pairs = list(read_pairs(io.BytesIO(content), path, lambda kind, message: None))
    used = 0
    for record in stream:
        try:
            check_sample(MAPPER(record, np.random.default_rng(0)))
            used += 1
        except SkipSample as skip:
            MAPPER.counter.add(skip.kind, skip.message)
    assert used + MAPPER.counter.total() - before >= len(pairs)


@given(st.one_of(trees(MEMBERS).map(shard_of), damaged_bytes(SHARD)))
def test_shards_by_their_index(folder, content):
    path = str(rewrite(folder / "shard.tar", content))
    Path(f"{path}.index").unlink(missing_ok=True)  # files change within the clock's resolution
    try:
        shards = ImageTextShards(path)
    except UserError:
        shards = []
    found = []
    for index in range(len(shards)):
        with contextlib.suppress(SkipSample):
            found.append(shards[index])
    assert found == ([] if is_compressed(path) else list(ImageTextStream(path)))


@given(st.one_of(trees(MEMBERS).map(shard_of), damaged_bytes(SHARD)))
def test_phrases_of_shards(folder, content):
    part = Part(0, str(rewrite(folder / "shard.tar", content)), "tar")
    counts = Counter()
    records = list(read_records(part, Options("rules"), counts))
    pairs = list(read_pairs(io.BytesIO(content), "x", lambda kind, message: None))
    skips = ("caption-encoding", "caption-empty", "caption-several")
    skipped = sum(counts[kind] for kind in skips)
    assert len(records) == counts["captions"]
    assert len(records) + skipped <= len(pairs)
    assert len(records) + skipped + counts["record-malformed"] >= len(pairs)
    copy = io.BytesIO()
    copy_shard(part, copy, Options("rules", copy_shards=True), Counter())
    copied = list(read_pairs(io.BytesIO(copy.getvalue()), "x", lambda kind, message: None))
    # A copy lacks phrases that cannot be read, and so may have a pair more.
    assert Counter(repr(one.caption) for one in pairs) <= Counter(
        repr(one.caption) for one in copied
    )

"""Image-text pairs of tars by number: the same as those of a stream, and by one read each."""

import builtins
import collections
import gzip
import io
import itertools
import json
import tarfile

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.mappers import CaptionMapper
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.data.sources import Source
from detclip2.utils.errors import UserError
from tests.helpers.tars import captions, encoded_image, pairs, tar_bytes


def test_records_are_those_of_the_stream_in_any_order(shards):
    records = ImageTextShards(shards)
    expected = list(ImageTextStream(shards))
    assert len(records) == len(expected) == 40
    for index in np.random.default_rng(0).permutation(40).tolist():
        assert records[index] == expected[index]
        value = int(records[index]["caption"].split()[-1])
        image = Image.open(io.BytesIO(records[index]["image_bytes"]))
        assert np.asarray(image)[0, 0, 0] == value
    assert records[-1] == expected[-1]
    assert captions(records[8:12]) == captions(expected[8:12])
    with pytest.raises(IndexError):
        records[40]


def long_names():
    return [("folder/" * 40 + name, content) for name, content in pairs(0, 3)]


def images_first():
    return sorted(pairs(0, 5), key=lambda file: file[0].endswith("txt"))


def several_members():
    for i in range(3):
        yield f"{i}.jpg", encoded_image(i)
        yield f"{i}.json", json.dumps({"caption": f"a dog {i}", "phrases": ["dog"]}).encode()
        yield f"{i}.mp3", b"x" * 700
        yield f"{i}.phrases.json", b'["a dog"]'
        yield f"{i}.txt", f"a cat {i}".encode()


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("layout", [long_names, images_first, several_members])
def test_every_layout_is_read_as_a_stream_reads_it(tmp_path, layout, tar_format):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in layout():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    stream = ImageTextStream(str(path))
    records = ImageTextShards(str(path), counter=(counter := SkipCounter()))
    assert list(records) == list(stream) != []
    assert counter.counts() == stream.counter.counts()


def test_members_of_a_pair(tmp_path):
    files = [
        *(("a.jpg", b"1"), ("a.json", json.dumps({"caption": "c", "phrases": ["json"]}).encode())),
        *(("b.webp", b"2"), ("b.txt", b"from text"), ("b.phrases.json", b'["text", "two"]')),
        *(("b.json", b'{"caption": "not this one"}'), ("sub/c.PNG", b"3"), ("sub/c.txt", b"in")),
        *(("d.txt", b"no image"), ("e.jpg", b"no caption"), ("f.jpg", b"4"), ("f.json", b"{oops")),
        *(("g.jpg", b"5"), ("g.json", b"[]"), ("h.jpg", b"6"), ("h.png", b"7"), ("h.txt", b"h")),
    ]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(files))
    counter = SkipCounter()
    records = ImageTextShards(str(path), counter)
    a, b, c, h = records[0], records[1], records[2], records[5]
    assert (a["caption"], a["phrases"], a["image_bytes"]) == ("c", ["json"], b"1")
    assert (b["caption"], b["phrases"], b["image_bytes"]) == (b"from text", ["text", "two"], b"2")
    assert (c["caption"], c["image_id"], "phrases" in c) == (b"in", "sub/c", False)
    assert h["image_bytes"] == b"6"
    assert a["file_name"] == f"{path}/a"
    assert counter.counts() == {"record-malformed": 2, "member-unread": 1}  # d, e; h.png
    for damaged in (3, 4):
        with pytest.raises(SkipSample, match=r"record-malformed: .*x\.tar/[fg]"):
            records[damaged]


def test_a_truncated_shard_gives_the_pairs_before_the_cut(tmp_path):
    data, path = tar_bytes(pairs(0, 4)), tmp_path / "a.tar"
    (tmp_path / "b.tar").write_bytes(tar_bytes(pairs(50, 2)))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        ends = {member.name: member.offset_data + member.size for member in tar.getmembers()}
    last = max(ends.values())
    for cut in [0, 1, 511, 512, 600, *range(700, last, 333), last - 1, last, last + 1]:
        path.write_bytes(data[:cut])
        counter = SkipCounter()
        records = ImageTextShards([str(path), str(tmp_path / "b.tar")], counter)
        whole = sum(ends[f"{i:03d}.png"] <= cut and ends[f"{i:03d}.txt"] <= cut for i in range(4))
        numbers = [*range(whole), 50, 51]
        assert captions(records) == [f"a dog number {i}" for i in numbers], cut
        assert counter.counts()["shard-unreadable"] == 1, cut


@pytest.mark.parametrize("damage", ["missing", "folder", "rubbish", "header", "negative size"])
def test_a_damaged_shard_is_counted_and_the_others_are_read(tmp_path, shards, damage):
    data, path = tar_bytes(pairs(0, 4)), tmp_path / "bad.tar"
    if damage == "folder":
        path.mkdir()
    elif damage == "rubbish":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif damage == "header":
        path.write_bytes(b"\x01" * 512 + data[512:])
    elif damage == "negative size":
        info = tarfile.TarInfo("0.jpg")
        header = bytearray(info.tobuf())
        header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        path.write_bytes(bytes(header) + data)
    counter = SkipCounter()
    records = ImageTextShards([str(path), shards], counter)
    assert len(records) == 40
    assert records.unreadable == [str(path)]
    assert counter.counts() == {"shard-unreadable": 1}


def test_shards_that_cannot_be_indexed_end_with_a_sentence(tmp_path, shards):
    for url in ("https://example.com/0.tar", "gs://bucket/0.tar", "pipe:cat 0.tar"):
        with pytest.raises(UserError, match="not on the disk: name ImageTextStream"):
            ImageTextShards([shards, url])
    packed = tmp_path / "0.tar.gz"
    packed.write_bytes(gzip.compress(tar_bytes(pairs(0, 3))))
    with pytest.raises(UserError, match=r"0\.tar\.gz is compressed.* name ImageTextStream"):
        ImageTextShards([shards, str(packed)])
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.mp3", b"x")]))
    with pytest.raises(UserError, match="no image-text shard can be read"):
        ImageTextShards(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UserError, match="empty"):
        ImageTextShards([])
    assert len(ImageTextShards(f"file:{tmp_path}/00000.tar")) == 10


def test_a_pair_takes_one_read_and_twelve_bytes(shards, monkeypatch):
    records = ImageTextShards(shards)
    assert records.nbytes == 12 * len(records)
    calls = collections.Counter()

    class Counted(io.FileIO):
        def read(self, size=-1):
            calls["read"] += 1
            return super().read(size)

    def counted_open(path, mode, buffering):
        calls["open"] += 1
        assert (mode, buffering) == ("rb", 0)
        return Counted(path, mode)

    monkeypatch.setattr(builtins, "open", counted_open)
    for index in (33, 2, 39):
        assert records[index]["image_bytes"]
    monkeypatch.undo()
    assert calls == {"read": 3, "open": 3}


def loader(shards, workers=0, total=6):
    mapper = CaptionMapper(noun_phrases=lambda text: [text.split()[-1]])
    return HybridLoader(seed=5, pairs=Source(ImageTextShards(shards), mapper, total, workers))


def numbers(batches, count):
    """The number in the caption of each sample."""
    return [
        int(sample["phrases"][0].split()[-1])
        for batch in itertools.islice(batches, count)
        for sample in batch
    ]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_resumed_run_sees_what_an_uninterrupted_one_would(shards, workers):
    whole = numbers(loader(shards), 15)  # 90 draws of 40 pairs
    assert sorted(whole[:40]) == sorted(whole[40:80]) == [*range(40)]
    assert whole[:40] != whole[40:80] != [*range(40)]
    first = loader(shards, workers)
    assert numbers(first, 5) == whole[:30]
    resumed = loader(shards, 2 - workers)
    resumed.load_state_dict(first.state_dict())
    assert numbers(resumed, 10) == whole[30:]


def test_processes_draw_together_what_one_would(shards, monkeypatch):
    whole = numbers(loader(shards), 8)
    for processes in (2, 3):
        monkeypatch.setattr(comm, "get_world_size", lambda n=processes: n)
        shares = []
        for rank in range(processes):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            source = Source(ImageTextShards(shards), loader_mapper(), 6, 0)
            samples, sampler = source.stream(source_seed(), 0)
            draws = itertools.islice(sampler, 48 // processes)
            shares.append([int(samples[d]["phrases"][0].split()[-1]) for d in draws])
        assert [n for together in zip(*shares, strict=True) for n in together] == whole


def loader_mapper():
    return CaptionMapper(noun_phrases=lambda text: [text.split()[-1]])


def source_seed():
    return int(np.random.SeedSequence([5, 0]).generate_state(1)[0])


def test_a_damaged_pair_is_counted_and_replaced(tmp_path):
    files = [*pairs(0, 6), ("x.png", b"no image"), ("x.txt", b"a dog"), ("y.png", encoded_image())]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([*files, ("y.json", b"{oops")]))
    data = loader(str(path), total=8)
    drawn = numbers(data, 1)
    assert len(drawn) == 8
    assert set(drawn) == set(range(6))
    counts = data.sources["pairs"].mapper.counter.counts()
    assert counts["image-unreadable"] >= 1
    assert counts["record-malformed"] >= 1
    with pytest.raises(SkipSample, match=r"x\.tar/x"):
        loader_mapper()(ImageTextShards(str(path))[6], np.random.default_rng(0))


def test_a_tar_that_is_cut_or_replaced_while_it_is_read(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(pairs(0, 3)))
    records = ImageTextShards(str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:1024])
    with pytest.raises(SkipSample, match=r"shard-unreadable: .*x\.tar, pair 2: .* cut"):
        records[2]
    for content in (bytes(len(whole)), np.random.default_rng(0).bytes(len(whole))):
        path.write_bytes(content)
        with pytest.raises(SkipSample, match="shard-unreadable"):
            records[1]
    path.unlink()
    with pytest.raises(SkipSample, match="shard-unreadable"):
        records[0]


def test_a_pair_that_is_cut_in_its_image_is_skipped(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([("a.txt", b"a dog"), ("a.png", bytes(4000))]))
    records = ImageTextShards(str(path))
    path.write_bytes(path.read_bytes()[:2560])  # 1 KiB of the image is left
    with pytest.raises(SkipSample, match="cut"):
        records[0]

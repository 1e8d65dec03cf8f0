import collections
import gzip
import hashlib
import io
import itertools
import json
import tarfile

import fsspec
import numpy as np
import pytest
import webdataset as wds
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader

from detclip2.data.io import shards as shards_module
from detclip2.data.io.shards import (
    ImageTextShards,
    ShardSamples,
)
from detclip2.data.mappers import CaptionMapper, draw_sample
from detclip2.data.sample import SkipSample, check_sample
from detclip2.utils.errors import UserError


def encoded_image(value=0, size=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value % 256, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def tar_bytes(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(start, number):
    """Files of a shard; every shard has the same keys, as tools write them."""
    for i in range(number):
        yield f"{i:03d}.png", encoded_image(start + i)
        yield f"{i:03d}.txt", f"a dog number {start + i}".encode()


@pytest.fixture
def shards(tmp_path):
    for i in range(4):
        (tmp_path / f"{i:05d}.tar").write_bytes(tar_bytes(pairs(10 * i, 10)))
    return str(tmp_path / "{00000..00003}.tar")


def captions(records):
    return [record["caption"].decode() for record in records]


def test_one_pass_has_every_image_text_pair_once(shards):
    source = ImageTextShards(shards, resampled=False, shuffle_buffer=5)
    records = list(source)
    assert sorted(captions(records)) == sorted(f"a dog number {i}" for i in range(40))
    for record in records:
        value = int(record["caption"].split()[-1])
        assert np.asarray(Image.open(io.BytesIO(record["image_bytes"])))[0, 0, 0] == value
    assert source.counter.total() == 0


def test_the_seed_determines_the_order(shards):
    orders = {
        seed: captions(ImageTextShards(shards, seed=seed, resampled=False)) for seed in (1, 2)
    }
    assert orders[1] == captions(ImageTextShards(shards, seed=1, resampled=False))
    assert orders[1] != orders[2]
    in_order = captions(ImageTextShards(shards, resampled=False, shuffle_buffer=0))
    numbers = [int(caption.split()[-1]) for caption in in_order]
    assert all(numbers[i] % 10 == i % 10 for i in range(40))


def test_processes_and_workers_share_one_pass(shards):
    source = ImageTextShards(shards, resampled=False)
    for parts in (1, 2, 3, 8):
        dealt = [caption for i in range(parts) for caption in captions(source.part(i, parts))]
        assert sorted(dealt) == sorted(f"a dog number {i}" for i in range(40))
    loader = DataLoader(source, batch_size=None, num_workers=2)
    assert sorted(captions(loader)) == sorted(f"a dog number {i}" for i in range(40))


def test_resampling_never_ends_and_parts_differ(shards):
    source = ImageTextShards(shards, seed=3)
    drawn = collections.Counter()
    first = {}
    for part in range(6):
        records = captions(itertools.islice(source.part(part, 6), 400))
        first[part] = tuple(records[:50])
        drawn.update(records)
    assert len(set(first.values())) == 6
    assert len(drawn) == 40
    # 240 draws of 4 shards, 60 of each expected, standard deviation 6.7; the buffer smears them.
    assert min(drawn.values()) > 20
    assert max(drawn.values()) < 110


def test_urls_of_every_kind(tmp_path, shards):
    data = tar_bytes(pairs(0, 3))
    path = tmp_path / "one.tar"
    path.write_bytes(data)
    with fsspec.open("memory://bucket/one.tar", "wb") as file:
        file.write(data)
    (tmp_path / "one.tar.gz").write_bytes(gzip.compress(data))
    urls = [
        str(path),
        f"file:{path}",
        "memory://bucket/one.tar",
        str(tmp_path / "one.tar.gz"),
    ]
    for url in urls:
        source = ImageTextShards(url, resampled=False)
        assert len(list(source)) == 3, url
        assert source.counter.total() == 0, url
    assert len(list(ImageTextShards(urls, resampled=False))) == 12
    with pytest.raises(UserError, match="empty"):
        ImageTextShards([])


def test_no_url_runs_a_command(tmp_path, shards):
    """`pipe:` needs an opener of the caller's program; quotes in a URL reach no shell."""
    (tmp_path / "one.tar").write_bytes(tar_bytes(pairs(0, 3)))
    ran = tmp_path / "ran"
    urls = [
        f"pipe:touch {ran}",
        f"{{pipe,x}}:touch {ran}",
        f"gs://a'; touch {ran} #.tar",
        f"http://127.0.0.1:9/a'; touch {ran} #.tar",
        f"reference://x::file://{ran}",
        f"simplecache::file://{tmp_path / 'one.tar'}",  # split at "::"
    ]
    source = ImageTextShards([*urls, shards], resampled=False)
    assert len(list(source)) >= 40
    assert source.counter.counts()["shard-unreadable"] == 8
    assert not ran.exists()
    command = f"pipe:cat {tmp_path / 'one.tar'}"
    assert len(list(ImageTextShards(command, resampled=False, opener=wds.gopen))) == 3


def test_a_truncated_shard_yields_the_samples_before_the_cut(tmp_path):
    data = tar_bytes(pairs(0, 4))
    whole = tar_bytes(pairs(50, 2))
    ends = {}  # pair -> the end of its last file's content, as tarfile lays it out
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar.getmembers():
            ends[member.name] = member.offset_data + member.size
    content_end = max(ends.values())
    (tmp_path / "b.tar").write_bytes(whole)
    for cut in [0, 1, 100, 511, 512, 600, *range(700, content_end, 333), content_end - 1]:
        (tmp_path / "a.tar").write_bytes(data[:cut])
        source = ImageTextShards(
            [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")],
            resampled=False,
            shuffle_buffer=0,
        )
        got = captions(source)
        complete = sum(
            ends[f"{i:03d}.png"] <= cut and ends[f"{i:03d}.txt"] <= cut for i in range(4)
        )
        from_cut = sorted(caption for caption in got if int(caption.split()[-1]) < 50)
        assert from_cut == [f"a dog number {i}" for i in range(complete)], cut
        assert len(got) == complete + 2, cut
        counts = source.counter.counts()
        assert counts.pop("shard-unreadable", 0) >= 1, cut
        # An image without its text is counted too.
        assert counts.keys() <= {"record-malformed"}, cut


@pytest.mark.parametrize("damage", ["missing", "rubbish", "gzip", "pipe", "scheme", "header"])
def test_a_damaged_shard_is_counted_and_the_next_one_read(tmp_path, shards, damage):
    data = tar_bytes(pairs(0, 4))
    path = tmp_path / "bad.tar"
    if damage == "rubbish":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif damage == "gzip":
        path.write_bytes(gzip.compress(data)[:-60])
    elif damage == "header":
        path.write_bytes(data[:2048] + b"\x01" * 512 + data[2560:])
    url = {"pipe": "pipe:exit 3", "scheme": "noscheme://x/a.tar"}.get(damage, str(path))
    source = ImageTextShards([url, shards], resampled=False)
    assert len(list(source)) >= 40
    assert source.counter.counts()["shard-unreadable"] >= 1


def test_no_readable_shard_ends_the_run_with_a_sentence(tmp_path):
    source = ImageTextShards(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UserError, match="no image-text shard can be read"):
        next(iter(source))
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.mp3", b"x")]))
    with pytest.raises(UserError, match="no image-text shard can be read"):
        next(iter(source))
    assert list(ImageTextShards(str(tmp_path / "{1..3}.tar"), resampled=False)) == []


def test_layouts_of_an_image_text_pair(tmp_path):
    files = [
        ("a.jpg", b"1"),
        ("a.json", json.dumps({"caption": "from json", "phrases": ["json"]}).encode()),
        ("b.webp", b"2"),
        ("b.txt", b"from text"),
        ("b.phrases.json", b'["text", "two"]'),
        ("b.json", b'{"caption": "not this one"}'),
        ("sub/c.PNG", b"3"),
        ("sub/c.txt", b"in a folder"),
        ("d.txt", b"no image"),
        ("e.jpg", b"no caption"),
        ("f.jpg", b"4"),
        ("f.json", b"{oops"),
        ("g.jpg", b"5"),
        ("g.json", b"[]"),
    ]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(files))
    source = ImageTextShards(str(path), resampled=False, shuffle_buffer=0)
    a, b, c = source
    assert (a["caption"], a["phrases"], a["image_bytes"]) == ("from json", ["json"], b"1")
    assert (b["caption"], b["phrases"], b["image_bytes"]) == (b"from text", ["text", "two"], b"2")
    assert (c["caption"], c["image_id"]) == (b"in a folder", "sub/c")
    assert a["file_name"] == f"{path}/a"
    assert source.counter.counts() == {"record-malformed": 4}


# ---- samples from shards


def mapper(**options):
    return CaptionMapper([T.RandomFlip()], noun_phrases=lambda text: [text.split()[-1]], **options)


@pytest.fixture
def imperfect(tmp_path):
    """Four shards in which every fifth image-text pair is unusable."""
    for i in range(4):
        files = []
        for name, data in pairs(10 * i, 10):
            number = int(name[:3])
            if number % 5 == 2:
                data = b"broken" if name.endswith("png") and i % 2 else b"\xff" if i else data
            files.append((name, data))
        (tmp_path / f"{i:05d}.tar").write_bytes(tar_bytes(files))
    return str(tmp_path / "{00000..00003}.tar")


def stream(urls, position=0, **options):
    source = ImageTextShards(urls, shuffle_buffer=20)
    return ShardSamples(source, mapper(), batch_size=3, seed=5, position=position, **options)


def digest(sample):
    check_sample(sample, 32)
    return hashlib.md5(sample["image"].numpy().tobytes() + str(sample["phrases"]).encode()).digest()


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_resuming_at_a_position_is_exact(imperfect, workers, monkeypatch):
    monkeypatch.setattr(shards_module, "LOOKAHEAD", 7)

    def batches(position, number):
        loader = DataLoader(
            stream(imperfect, position), batch_size=3, num_workers=workers, collate_fn=list
        )
        return [[digest(sample) for sample in batch] for batch in itertools.islice(loader, number)]

    whole = batches(0, 14)
    assert len({sample for batch in whole for sample in batch}) > 15
    for position in (1, 5, 8):
        assert batches(position, 4) == whole[position : position + 4]


def test_skipped_records_are_counted_once_and_replaced(imperfect):
    samples = stream(imperfect)
    records = list(itertools.islice(samples.shards.part(0, 1, 5), 60))
    unusable = sum(draw_sample([r], 0, mapper(), np.random.default_rng(0)) is None for r in records)
    taken = list(itertools.islice(samples, 60))
    assert len(taken) == 60
    assert 0 < unusable == samples.mapper.counter.total()
    expected = [r["caption"] for r in records]
    same = sum(s["phrases"][0].encode() == e for s, e in zip(taken, expected, strict=True))
    assert same >= 60 - unusable


def test_only_unusable_records_end_the_run_with_a_sentence(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([("a.png", b"x"), ("a.txt", b"a dog")]))
    with pytest.raises(UserError, match=r"no sample.*image-unreadable"):
        next(iter(stream(str(path))))
    with pytest.raises(UserError, match="resampled"):
        ShardSamples(ImageTextShards(str(path), resampled=False), mapper(), 1)


def test_an_unusable_image_text_pair_is_reported_with_its_place(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([("a.png", b"x"), ("a.txt", b"a dog")]))
    (record,) = ImageTextShards(str(path), resampled=False)
    with pytest.raises(SkipSample, match=r"x\.tar/a"):
        mapper()(record, np.random.default_rng(0))

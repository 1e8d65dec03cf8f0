import collections
import gzip
import hashlib
import io
import itertools
import tarfile
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import webdataset as wds
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader

from detclip2.data.io import shard_stream
from detclip2.data.io.shard_stream import ImageTextStream, StreamSamples, _open
from detclip2.data.mappers import CaptionMapper, draw_sample
from detclip2.data.sample import SkipSample, check_sample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError
from tests.helpers.tars import captions, pairs, tar_bytes


def test_iterating_reads_every_image_text_pair_once_in_order(shards):
    stream = ImageTextStream(shards)
    records = list(stream)
    assert captions(records) == [f"a dog number {i}" for i in range(40)]
    for record in records:
        value = int(record["caption"].split()[-1])
        assert np.asarray(Image.open(io.BytesIO(record["image_bytes"])))[0, 0, 0] == value
    assert stream.counter.total() == 0


def test_the_seed_determines_the_order(shards):
    stream = ImageTextStream(shards)
    drawn = [captions(itertools.islice(stream.part(0, seed), 40)) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    in_order = ImageTextStream(shards, shuffle_buffer=0)
    numbers = [int(one.split()[-1]) for one in captions(itertools.islice(in_order.part(0, 1), 40))]
    assert all(numbers[i] % 10 == i % 10 for i in range(40))


def test_drawing_never_ends_and_parts_differ(shards):
    stream = ImageTextStream(shards)
    drawn = collections.Counter()
    first = {}
    for part in range(6):
        records = captions(itertools.islice(stream.part(part, 3), 400))
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
        source = ImageTextStream(url)
        assert len(list(source)) == 3, url
        assert source.counter.total() == 0, url
    assert len(list(ImageTextStream(urls))) == 12
    with pytest.raises(UserError, match="empty"):
        ImageTextStream([])


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
    source = ImageTextStream([*urls, shards])
    assert len(list(source)) >= 40
    assert source.counter.counts()["shard-unreadable"] == 8
    assert not ran.exists()
    command = f"pipe:cat {tmp_path / 'one.tar'}"
    assert len(list(ImageTextStream(command, opener=wds.gopen))) == 3


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
        source = ImageTextStream(
            [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")],
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
    source = ImageTextStream([url, shards])
    assert len(list(source)) >= 40
    assert source.counter.counts()["shard-unreadable"] >= 1


def test_no_readable_shard_ends_the_run_with_a_sentence(tmp_path):
    source = ImageTextStream(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UserError, match="no image-text shard can be read"):
        next(source.part(0, 0))
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.mp3", b"x")]))
    with pytest.raises(UserError, match="no image-text shard can be read"):
        next(source.part(0, 0))
    assert list(ImageTextStream(str(tmp_path / "{1..3}.tar"))) == []


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
    source = ImageTextStream(urls, shuffle_buffer=20)
    return StreamSamples(source, mapper(), batch_size=3, seed=5, position=position, **options)


def digest(sample):
    check_sample(sample, 32)
    return hashlib.md5(sample["image"].numpy().tobytes() + str(sample["phrases"]).encode()).digest()


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_resuming_at_a_position_is_exact(imperfect, workers, monkeypatch):
    monkeypatch.setattr(shard_stream, "LOOKAHEAD", 7)

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
    records = list(itertools.islice(samples.shards.part(0, 5), 60))
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


def test_no_two_workers_of_any_process_read_the_same_part(monkeypatch):
    class AnyMapper:
        counter = None

        def __call__(self, record, rng):
            return record

    seen = []
    for rank, worker in itertools.product(range(3), range(2)):
        stream = shard_stream.ImageTextStream("a.tar")
        stream.rank = rank
        stream.part = lambda index, seed: seen.append(index) or itertools.repeat({})
        info = SimpleNamespace(id=worker, num_workers=2)
        monkeypatch.setattr(shard_stream, "get_worker_info", lambda info=info: info)
        next(iter(shard_stream.StreamSamples(stream, AnyMapper(), batch_size=1)))
    assert sorted(seen) == list(range(6))


def test_a_skipped_record_is_replaced_by_the_last_of_the_window(monkeypatch):
    class Odd:
        counter = SkipCounter()

        def __call__(self, record, rng):
            if record == 0:
                raise SkipSample("caption-empty", "zero")
            return record

    monkeypatch.setattr(shard_stream, "LOOKAHEAD", 3)
    stream = shard_stream.ImageTextStream("a.tar")
    stream.part = lambda index, seed: itertools.count()
    samples = shard_stream.StreamSamples(stream, Odd(), batch_size=3)
    assert [*itertools.islice(samples, 3)] == [3, 1, 2]  # no record twice in a batch


def test_addresses_that_combine_files_are_refused():
    with pytest.raises(ValueError, match="opener"):
        _open("memory://a.tar::file:///tmp/a.tar")

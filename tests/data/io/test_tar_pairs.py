"""Which members of a tar make a pair, in training and in ``detclip2 phrases`` alike."""

import io
import json
import tarfile

import pytest

from detclip2.cli import main
from detclip2.data.io import tar_pairs
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.io.tar_pairs import read_pairs
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError
from tests.helpers.tars import tar_bytes

# name of the case -> members, expected {key: (caption, image)}, expected counts
LAYOUTS = {
    "sorted": (
        [("0.jpg", b"i0"), ("0.txt", b"a dog"), ("1.jpg", b"i1"), ("1.txt", b"a cat")],
        {"0": ("a dog", b"i0"), "1": ("a cat", b"i1")},
        {},
    ),
    "upper case": (
        [
            ("A.JPG", b"i0"),
            ("A.TXT", b"a dog"),
            ("b.PnG", b"i1"),
            ("b.Json", b'{"caption": "a cat"}'),
        ],
        {"A": ("a dog", b"i0"), "b": ("a cat", b"i1")},
        {},
    ),
    "captions in json": (
        [("0.webp", b"i0"), ("0.json", b'{"caption": "a dog", "url": "x"}')],
        {"0": ("a dog", b"i0")},
        {},
    ),
    "dots in names": (
        [
            *(("a/photo.v1.0.png", b"i0"), ("a/photo.v1.0.txt", b"a dog")),
            *(("a/photo.v1.1.png", b"i1"), ("a/photo.v1.1.txt", b"a cat")),
        ],
        {"a/photo.v1.0": ("a dog", b"i0"), "a/photo.v1.1": ("a cat", b"i1")},
        {},
    ),
    "images, then texts": (
        [("0.jpg", b"i0"), ("1.jpg", b"i1"), ("0.txt", b"a dog"), ("1.txt", b"a cat")],
        {"0": ("a dog", b"i0"), "1": ("a cat", b"i1")},
        {},
    ),
    "texts, then images in another order": (
        [("0.txt", b"a dog"), ("1.txt", b"a cat"), ("1.jpg", b"i1"), ("0.jpg", b"i0")],
        {"0": ("a dog", b"i0"), "1": ("a cat", b"i1")},
        {},
    ),
    "no captions": (
        [("0.jpg", b"i0"), ("1.jpg", b"i1"), ("1.json", b'{"url": "x"}'), ("2.jpg", b"i2")],
        {},
        {"record-malformed": 3},
    ),
    "other files": (
        [
            *(("._0.jpg", b"mac"), ("0.jpg", b"i0"), ("0.mask.png", b"m"), ("0.npy", b"x")),
            *(("0.txt", b"a dog"), (".DS_Store", b"mac"), ("README", b"x"), (".txt", b"x")),
        ],
        {"0": ("a dog", b"i0")},
        {"member-unread": 5, "record-malformed": 1},
    ),
    "folders, equal names in two": (
        [
            ("a/", None),
            ("a/0.jpg", b"i0"),
            ("a/0.txt", b"a dog"),
            ("b/0.jpg", b"i1"),
            ("b/0.txt", b"a cat"),
        ],
        {"a/0": ("a dog", b"i0"), "b/0": ("a cat", b"i1")},
        {},
    ),
    "two images of a name": (
        [("0.jpg", b"i0"), ("0.png", b"i1"), ("0.txt", b"a dog")],
        {"0": ("a dog", b"i0")},
        {"member-unread": 1},
    ),
    "two members of a name": (
        [("0.jpg", b"i0"), ("0.jpg", b"i1"), ("0.txt", b"a dog")],
        {"0": ("a dog", b"i0")},
        {"member-unread": 1},
    ),
    "json that is damaged, no object, too deep": (
        [
            *(("0.jpg", b"i"), ("0.json", b"{oops"), ("1.jpg", b"i"), ("1.json", b"[]")),
            *(("2.jpg", b"i"), ("2.json", b"[" * 100_000), ("3.jpg", b"i"), ("3.json", b"null")),
            *(("4.jpg", b"i"), ("4.json", b'\xff\xfe"'), ("5.jpg", b"i"), ("5.txt", b"a dog")),
        ],
        {"5": ("a dog", b"i")},
        {"record-malformed": 5},
    ),
    "a name that is not UTF-8": (
        [("caf\udce9.jpg", b"i0"), ("caf\udce9.txt", b"a dog")],
        {"caf\udce9": ("a dog", b"i0")},
        {},
    ),
    "a link": (
        [("0.jpg", b"i0"), ("0.txt", b"a dog"), ("1.jpg", "0.jpg"), ("1.txt", b"a cat")],
        {"0": ("a dog", b"i0")},
        {"member-unusable": 1, "record-malformed": 1},
    ),
}


def write_tar(path, members):
    """Members are (name, content), (folder, None) or (link, name of its target)."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def trained_on(path):
    """The records of training, {key: (caption, image)}, and what it counts."""
    shards = ImageTextStream(str(path))
    records = {r["image_id"]: (_text(r["caption"]), r["image_bytes"]) for r in shards}
    return records, shards.counter.counts()


def read_by_index(path):
    """The same of pairs that are read one by one; those that are damaged are counted then."""
    counter = SkipCounter()
    records = {}
    try:
        shards = ImageTextShards(str(path), counter)
    except UserError:  # there is no pair
        return records, counter.counts()
    for index in range(len(shards)):
        try:
            record = shards[index]
            records[record["image_id"]] = _text(record["caption"]), record["image_bytes"]
        except SkipSample as skip:
            counter.add(skip.kind, skip.message)
    return records, counter.counts()


def _text(caption):
    return caption.decode() if isinstance(caption, bytes) else caption


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_and_phrases_read_the_same(tmp_path, layout, capsys):
    members, expected, counts = LAYOUTS[layout]
    path = write_tar(tmp_path / "x.tar", members)
    assert trained_on(path) == (expected, counts)
    assert read_by_index(path) == (expected, counts)

    def phrases(*options):
        argv = ["phrases", path, "--backend", "rules", "--workers", 1, *options]
        assert main([str(word) for word in argv]) == 0
        return json.loads((options[1] / "summary.json").read_text())

    summary = phrases("--output", tmp_path / "out")
    lines = (tmp_path / "out" / "phrases-000000.jsonl").read_text("utf-8").splitlines()
    found = {line["key"]: line["caption"] for line in map(json.loads, lines)}
    texts = {key: text for key, (text, _) in expected.items()}
    assert {key: found[key] for key in expected} == texts
    # A caption without an image is of use to `phrases`, and counted by both.
    without_image = summary.pop("image-unreadable", 0)
    assert len(found) == len(expected) + without_image
    others = ("backend", "parts", "captions", "phrases")
    skipped = {kind: number for kind, number in summary.items() if kind not in others}
    skipped["record-malformed"] = skipped.get("record-malformed", 0) + without_image
    assert {kind: number for kind, number in skipped.items() if number} == counts

    copied = phrases("--output", tmp_path / "copies", "--copy-shards")
    assert copied["captions"] == len(found)
    copy = ImageTextStream(str(tmp_path / "copies" / "x.tar"))
    assert {r["image_id"]: r["phrases"] for r in copy} == {
        key: [text.removeprefix("a ")] for key, text in texts.items()
    }


def test_members_that_are_too_far_apart_are_counted(tmp_path, monkeypatch):
    images = [(f"{i}.jpg", b"x" * 100) for i in range(10)]
    texts = [(f"{i}.txt", b"a dog") for i in range(10)]
    path = write_tar(tmp_path / "x.tar", images + texts)
    monkeypatch.setattr(tar_pairs, "MAX_HELD", 650)
    records, counts = trained_on(path)
    assert set(records) == {"4", "5", "6", "7", "8", "9"}
    assert counts == {"record-malformed": 8}  # four images, and then their texts
    sorted_path = write_tar(tmp_path / "y.tar", sorted(images + texts))
    assert len(trained_on(sorted_path)[0]) == 10  # of any size


def test_joined_tars_of_equal_names_are_two_pairs_a_name():
    counter = SkipCounter()
    members = [(str(i), s, b"x") for _ in range(2) for i in range(3) for s in ("jpg", "txt")]
    grouped = tar_pairs._grouped(members, "x.tar", counter.add)
    assert [key for key, _ in grouped] == ["0", "1", "2"] * 2
    unsorted = [(str(i), s, b"x") for _ in range(2) for s in ("jpg", "txt") for i in range(3)]
    grouped = tar_pairs._grouped(unsorted, "x.tar", counter.add)
    assert sorted(key for key, _ in grouped) == sorted(["0", "1", "2"] * 2)
    assert counter.total() == 0


@pytest.mark.parametrize(
    ("caption", "outcome"),
    [
        ("a dog", "captions"),
        (["a dog"], "captions"),
        (["a dog", "a cat"], "caption-several"),
        ([], "caption-empty"),
        (None, "caption-empty"),
        (" ", "caption-empty"),
        (7, "record-malformed"),
        ({"text": "a dog"}, "record-malformed"),
        ([7], "record-malformed"),
        ("\ud800", "caption-encoding"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "jsonl"])
def test_captions_of_every_type(tmp_path, kind, caption, outcome):
    content = json.dumps({"caption": caption, "image": "0.jpg"}).encode()
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        write_tar(path, [("0.jpg", b"i"), ("0.json", content)])
    else:
        path.write_bytes(content)
    argv = ["phrases", path, "--output", tmp_path / "out", "--backend", "rules", "--workers", "1"]
    assert main([str(word) for word in argv]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    kinds = ("captions", "caption-several", "caption-empty", "record-malformed", "caption-encoding")
    assert {kind: summary[kind] for kind in kinds if summary.get(kind)} == {outcome: 1}


def test_nothing_but_other_files_is_reported(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("0.mp3", b"x")])
    with pytest.raises(UserError, match="no image-text shard can be read"):
        ImageTextShards(str(path))


def test_phrases_that_come_last_are_found_in_a_mixed_tar():
    names = ["a.png", "b.png", "a.txt", "c.png", "b.txt", "c.txt", "a.phrases.json"]
    content = {"png": b"x", "txt": b"a dog", "json": b'["dog"]'}
    tar = tar_bytes([(name, content[name.rpartition(".")[2]]) for name in names])
    skipped = []
    found = {
        p.key: p.phrases for p in read_pairs(io.BytesIO(tar), "x", lambda *a: skipped.append(a))
    }
    assert (found, skipped) == ({"a": ["dog"], "b": None, "c": None}, [])

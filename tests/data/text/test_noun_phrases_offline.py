import io
import json
import tarfile

import pytest

from detclip2.cli import main
from detclip2.data.datasets.captions import CaptionJsonl
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.text.noun_phrases import extract_noun_phrases

CAPTIONS = [f"a red apple next to {i} dogs and a thing{i}" for i in range(25)]


def run(*args):
    return main(["phrases", "--backend", "rules", "--workers", "1", *map(str, args)])


def read(folder):
    parts = sorted(folder.glob("phrases-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def write_shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_text_file(tmp_path):
    source, output = tmp_path / "c.txt", tmp_path / "out"
    source.write_text("\n\n".join(CAPTIONS) + "\nthe of\n")
    assert run(source, "--output", output, "--lines", 10) == 0
    records = read(output)
    assert [record["caption"] for record in records] == [*CAPTIONS, "the of"]
    assert [record["image_id"] for record in records] == list(range(26))
    assert all(r["phrases"] == extract_noun_phrases(r["caption"], "rules") for r in records)
    assert len(list(output.glob("phrases-*.jsonl"))) == 3
    total = summary(output)
    assert total["captions"] == 26
    assert total["caption-without-phrase"] == 1
    assert total["phrases"] == sum(len(record["phrases"]) for record in records)


def test_tsv_with_bad_lines_is_counted_and_read_by_the_source(tmp_path):
    source, output = tmp_path / "c.tsv", tmp_path / "out"
    lines = [
        b"http://a\ta dog",
        b"one column",
        b"http://b\t\xff\xfe dog",
        b"http://c\t  ",
        b"u\ta cat\r",
    ]
    source.write_bytes(b"\n".join(lines))
    options = ("--caption-column", 1, "--url-column", 0, "--image-name", "{index:03d}.jpg")
    assert run(source, "--output", output, *options) == 0
    assert [(r["image"], r["phrases"]) for r in read(output)] == [
        ("000.jpg", ["dog"]),
        ("004.jpg", ["cat"]),
    ]
    total = summary(output)
    kinds = ("record-malformed", "caption-encoding", "caption-empty")
    assert [total[kind] for kind in kinds] == [1, 1, 1]
    records = CaptionJsonl(str(output / "phrases-000000.jsonl"), "images")
    assert records[1]["phrases"] == ["cat"]
    assert records[1]["file_name"].endswith("004.jpg")


def test_jsonl_keeps_its_keys(tmp_path):
    source, output = tmp_path / "c.jsonl", tmp_path / "out"
    lines = [
        '{"text": "a dog", "image": "1.jpg"}',
        "not json",
        "[1]",
        '{"text": 3}',
        '{"text": "\\ud800"}',
    ]
    source.write_text("\n".join(lines))
    assert run(source, "--output", output, "--caption-key", "text") == 0
    assert read(output) == [{"text": "a dog", "image": "1.jpg", "phrases": ["dog"]}]
    assert summary(output)["record-malformed"] == 3
    assert summary(output)["caption-encoding"] == 1


def test_a_rerun_does_the_remaining_work(tmp_path):
    source, output = tmp_path / "c.txt", tmp_path / "out"
    source.write_text("\n".join(CAPTIONS))
    assert run(source, "--output", output, "--lines", 5) == 0
    whole, total = read(output), summary(output)
    # As after a kill: one part missing, one without its counts, one half-written temporary file.
    (output / "phrases-000001.jsonl").unlink()
    (output / "counts" / "000003.json").unlink()
    (output / ".phrases-000001.jsonl.123").write_text('{"half')
    kept = output / "phrases-000002.jsonl"
    kept.write_text(
        kept.read_text().replace("red", "RED")
    )  # to check that it is not processed again
    assert run(source, "--output", output, "--lines", 5) == 0
    assert "RED" in kept.read_text()
    kept.write_text(kept.read_text().replace("RED", "red"))
    assert read(output) == whole
    assert summary(output) == total
    assert not list(output.glob(".*"))


def test_other_inputs_or_options_are_refused(tmp_path, capsys):
    source, output = tmp_path / "c.txt", tmp_path / "out"
    source.write_text("\n".join(CAPTIONS))
    assert run(source, "--output", output) == 0
    assert run(source, "--output", output, "--max-phrases", 1) == 2
    source.write_text("\n".join(CAPTIONS[:-1]))
    assert run(source, "--output", output) == 2
    assert "plan.json" in capsys.readouterr().err


def test_processes_give_the_same_as_one(tmp_path):
    source = tmp_path / "c.txt"
    source.write_text("\n".join(CAPTIONS))
    assert run(source, "--output", tmp_path / "one", "--lines", 25) == 0
    assert run(source, "--output", tmp_path / "two", "--lines", 4, "--workers", 2) == 0
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert summary(tmp_path / "two")["parts"] == 7


def test_shards(tmp_path, capsys):
    good, cut = tmp_path / "0.tar", tmp_path / "1.tar"
    samples = [("a/0.jpg", b"\xff\xd8 picture"), ("a/0.txt", b"a red apple"), ("a/1.txt", b"\xff")]
    write_shard(good, samples)
    write_shard(cut, samples)
    cut.write_bytes(cut.read_bytes()[:2000])  # in the middle of the second file's content
    output = tmp_path / "out"
    assert run(good, cut, "--output", output) == 0
    expected = {
        "shard": str(good),
        "key": "a/0",
        "caption": "a red apple",
        "phrases": ["red apple"],
    }
    assert read(output)[0] == expected
    assert summary(output)["shard-unreadable"] == 1
    assert summary(output)["caption-encoding"] == 1

    assert run(good, "--output", tmp_path, "--copy-shards") == 2  # over itself
    copies = tmp_path / "copies"
    assert run(good, "--output", copies, "--copy-shards") == 0
    with tarfile.open(copies / "0.tar") as tar:
        content = [(member.name, tar.extractfile(member).read()) for member in tar]
    assert content[:2] == samples[:2]
    assert content[2] == ("a/0.phrases.json", b'["red apple"]')
    assert content[3] == samples[2]
    shards = ImageTextShards(str(copies / "0.tar"))
    assert next(iter(shards))["phrases"] == ["red apple"]


def test_a_shard_truncated_between_two_files_is_detected(tmp_path):
    shard, output = tmp_path / "0.tar", tmp_path / "out"
    write_shard(shard, [("0.txt", b"a dog"), ("1.txt", b"a cat")])
    shard.write_bytes(shard.read_bytes()[:1024])
    assert run(shard, "--output", output) == 0
    assert [record["phrases"] for record in read(output)] == [["dog"]]
    assert summary(output)["shard-unreadable"] == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.txt"], "missing.txt"),
        (["c.csv"], "--format"),
        (["c.txt", "--lines", "0"], "--lines"),
        (["c.txt", "--caption-column", "-1"], "--caption-column"),
        (["c.txt", "--image-name", "{nonsense}"], "--image-name"),
        (["c.txt", "--copy-shards"], "--copy-shards"),
    ],
)
def test_mistakes_are_reported(tmp_path, capsys, args, message):
    (tmp_path / "c.txt").write_text("a dog")
    args = [str(tmp_path / args[0]), *args[1:]]
    assert run(*args, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_an_empty_file(tmp_path):
    (tmp_path / "c.txt").write_text("\n \n")
    assert run(tmp_path / "c.txt", "--output", tmp_path / "out") == 0
    assert summary(tmp_path / "out") == {"backend": "rules", "parts": 0}

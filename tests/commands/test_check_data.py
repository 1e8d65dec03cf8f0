"""``detclip2 check-data``: what it counts, and what it says is to fix."""

import json

import pytest
from PIL import Image

from detclip2.cli import main
from tests.helpers.toy_datasets import write_shard

CONFIG = """
from detectron2.config import LazyCall as L

from detclip2.data import CaptionMapper, HybridLoader, ImageTextShards, Source
from detclip2.data.datasets.captions import CaptionJsonl

folder = {folder!r}
images = dict(list=2)
dataloader = dict(
    train=L(HybridLoader)(
        list=L(Source)(
            records=L(CaptionJsonl)(jsonl_file=folder + "/pairs.jsonl", image_root=folder),
            mapper=L(CaptionMapper)(),
            total_batch_size=1,
        ),
        shards=L(Source)(
            records=L(ImageTextShards)(urls=folder + "/{{00000..00001}}.tar"),
            mapper=L(CaptionMapper)(),
            total_batch_size=1,
        ),
    )
)
"""


@pytest.fixture
def check(tmp_path, capsys):
    """Run the command on a list of two pairs and two shards -> exit code, rows, output."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "caption": "a dog"}] * 2
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number, count in enumerate((8, 4)):
        write_shard(tmp_path / f"{number:05d}.tar", count)
    (tmp_path / "config.py").write_text(CONFIG.format(folder=str(tmp_path)))

    def run(*more):
        code = main(["check-data", "--config", str(tmp_path / "config.py"), *map(str, more)])
        printed = capsys.readouterr().out
        words = filter(None, map(str.split, printed.splitlines()))
        rows = {first: " ".join(rest) for first, *rest in words}
        return code, rows, printed

    return run


def test_complete_data(check):
    code, rows, printed = check("--samples", 3)
    assert code == 0
    assert rows["list"] == "2 2 - 2 of 2"
    assert rows["shards"] == "12 - - 3 of 3"
    assert "the data can be used; test sets: none" in printed


def test_pairs_of_a_stream_are_estimated(check, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(config.read_text().replace("ImageTextShards", "ImageTextStream"))
    assert check()[1]["shards"] == "about 16 - - 12 of 12"  # twice those of the first shard
    assert check("--shards", 2)[1]["shards"].startswith("12 ")


def test_missing_shards_and_images(check, tmp_path):
    (tmp_path / "00001.tar").unlink()
    (tmp_path / "a.png").unlink()
    code, rows, printed = check("--samples", 3)
    assert code == 2
    assert "shards: 1 of 2 tar shards have no pair, such as" in printed
    assert rows["shards"].startswith("8 ")
    assert rows["list"].endswith("0 of 2")
    assert "list: none of the records that were tried makes a sample" in printed
    assert "image-unreadable" in printed
    (tmp_path / "00000.tar").unlink()
    assert "shards: no image-text shard can be read, such as" in check()[2]


def test_other_numbers_than_the_schedule_is_computed_from(check):
    code, _, printed = check("images.list=100")
    assert code == 2
    assert "list: 2 records, where the config computes its iterations from 100" in printed


def test_a_source_that_cannot_be_read(check, tmp_path):
    (tmp_path / "pairs.jsonl").unlink()
    code, rows, printed = check()
    assert code == 2
    assert rows["list"] == "- - - -"
    assert "to fix: list:" in printed
    assert rows["shards"].startswith("12 ")

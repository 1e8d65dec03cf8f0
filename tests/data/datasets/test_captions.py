import hashlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from detclip2.data.datasets.captions import (
    CaptionJsonl,
    CaptionTsv,
    coco_caption_records,
    karpathy_records,
)
from detclip2.data.mappers import CaptionMapper, draw_sample
from detclip2.data.sample import check_sample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError


def encoded_image(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def mapper():
    return CaptionMapper(noun_phrases=lambda text: [text.split()[-1]])


def test_tsv_with_images_by_number_or_by_hash(tmp_path):
    url = "http://example.org/a.jpg"
    md5 = hashlib.md5(url.encode()).hexdigest()
    (tmp_path / f"{md5}.jpg").write_bytes(encoded_image(3))
    (tmp_path / "000000001.jpg").write_bytes(encoded_image(4))
    tsv = tmp_path / "list.tsv"
    tsv.write_bytes(f"a dog\t{url}\n".encode() + b"caf\xe9 cat\thttp://b\nlonely\n")
    by_hash = CaptionTsv(str(tsv), str(tmp_path), "{md5}.jpg")
    sample = mapper()(by_hash[0], np.random.default_rng(0))
    check_sample(sample, 32)
    assert sample["phrases"] == ["a dog", "dog"]
    assert sample["image"].unique().tolist() == [3]
    by_number = CaptionTsv(str(tsv), str(tmp_path))
    used = mapper()
    made = [draw_sample(by_number, i, used, np.random.default_rng(0)) for i in range(3)]
    assert made == [None] * 3
    assert used.counter.counts() == {"image-unreadable": 2, "caption-encoding": 1}
    swapped = CaptionTsv(str(tsv), "", "{sha1}", caption_column=1, url_column=0)
    assert swapped[0]["caption"] == url.encode()
    assert swapped[0]["file_name"] == hashlib.sha1(b"a dog").hexdigest()
    assert draw_sample(swapped, 2, used, np.random.default_rng(0)) is None
    for wrong in ("{name}.jpg", "{index:x", "{}"):
        with pytest.raises(UserError, match="file_name"):
            CaptionTsv(str(tsv), "", wrong)


def test_jsonl(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded_image(3))
    lines = [
        {"image": "a.png", "caption": "a dog", "phrases": ["the dog"]},
        {"image": "a.png", "caption": ["a cat", "a cow"], "image_id": "x"},
        {"image": "a.png"},
        {"caption": "a"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\r\n{oops\n")
    source = CaptionJsonl(str(path), str(tmp_path))
    used = mapper()
    made = [draw_sample(source, i, used, np.random.default_rng(0)) for i in range(len(source))]
    assert made[0]["phrases"] == ["a dog", "the dog"]
    assert made[1]["phrases"][0] in ("a cat", "a cow")
    assert made[1]["image_id"] == "x"
    assert made[2:] == [None] * 3
    assert used.counter.counts() == {"record-malformed": 3}
    assert source[-5]["caption"] == "a dog"
    assert len(source[:2]) == 2


def test_cc3m_of_google(test_data):
    source = CaptionTsv(str(test_data / "names/cc3m_val_first300.tsv"), "nowhere")
    lines = (test_data / "names/cc3m_val_first300.tsv").read_text().splitlines()
    assert len(source) == len(lines) == 300
    assert [r["caption"].decode() for r in source] == [line.split("\t")[0] for line in lines]
    assert source[299]["file_name"] == "nowhere/000000299.jpg"


def test_coco_captions(test_data):
    folder = test_data / "coco_open"
    for split, images, number in (("train", 26, 130), ("val", 25, 125)):
        path = folder / f"annotations/captions_{split}2017.json"
        records = coco_caption_records(str(path), str(folder / f"{split}2017"))
        assert len(records) == images
        assert sum(len(r["captions"]) for r in records) == number
        used = CaptionMapper([T.Resize((320, 320))])
        for index in range(images):
            sample = draw_sample(records, index, used, np.random.default_rng(index))
            check_sample(sample, 32)
            assert sample["image"].shape == (3, 320, 320)
            assert sample["image"].dtype == torch.uint8
            assert len(sample["phrases"]) > 1
        assert used.counter.total() == 0


def test_faults_in_coco_captions(tmp_path):
    path = tmp_path / "captions.json"
    images = [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}, {"id": 2}]
    texts = [
        {"image_id": 1, "caption": "a dog"},
        {"image_id": 1, "caption": " "},
        {"image_id": 1},
        {"image_id": 9, "caption": "a cat"},
    ]
    path.write_text(json.dumps({"images": images, "annotations": texts}))
    counter = SkipCounter()
    (record,) = coco_caption_records(str(path), "x", counter)
    assert record == {"file_name": "x/a", "image_id": 1, "captions": ["a dog"]}
    assert counter.counts() == {
        "caption-empty": 2,
        "image-unknown": 1,
        "image-duplicate": 1,
        "record-malformed": 1,
    }


def karpathy(**changes):
    entry = {
        "filepath": "val2014",
        "filename": "COCO_val2014_000000000042.jpg",
        "cocoid": 42,
        "split": "restval",
        "sentences": [{"raw": "A dog. ", "tokens": ["a", "dog"]}, {"raw": " "}, {"tokens": []}],
    }
    return {**entry, **changes}


def test_karpathy_splits(tmp_path):
    flickr = karpathy(split="train", imgid=7)
    del flickr["filepath"], flickr["cocoid"]
    images = [
        karpathy(),
        flickr,
        karpathy(cocoid=1, split="test"),
        karpathy(cocoid=2, sentences=[]),
        karpathy(),
        "no object",
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    counter = SkipCounter()
    records = karpathy_records(str(path), "images", counter=counter)
    assert records == [
        {
            "file_name": "images/val2014/COCO_val2014_000000000042.jpg",
            "image_id": 42,
            "captions": ["A dog."],
        },
        {
            "file_name": "images/COCO_val2014_000000000042.jpg",
            "image_id": 7,
            "captions": ["A dog."],
        },
    ]
    kinds = {"caption-empty": 1, "image-duplicate": 1, "record-malformed": 1}
    assert counter.counts() == kinds
    assert [r["image_id"] for r in karpathy_records(str(path), "images", ["test"])] == [1]
    with pytest.raises(UserError, match=r"no image with captions in \['val'\]"):
        karpathy_records(str(path), "images", ["val"])


@pytest.mark.parametrize("images", [{}, [karpathy(filename="../../secret.jpg")]])
def test_karpathy_files_that_are_refused(tmp_path, images):
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    with pytest.raises(UserError, match=r"not a list|secret"):
        karpathy_records(str(path), "images")

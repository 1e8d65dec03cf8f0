"""A byte order mark, as editors on Windows write it, is no part of a file's content."""

import codecs
import json

import pytest

from detclip2.cli import main as detclip2
from detclip2.config import load_config
from detclip2.data.datasets.captions import CaptionJsonl, CaptionTsv, coco_caption_records
from detclip2.data.datasets.detection import names_of_json
from detclip2.data.datasets.grounding import OdvgFile, mdetr_records, odvg_names
from detclip2.data.io.lines import LineFile
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.data.text.names import read_names

IMAGE = {"id": 1, "file_name": "a.jpg", "caption": "a cat"}
CAPTION = {"id": 1, "image_id": 1, "caption": "a cat", "bbox": [1, 1, 5, 5],
           "tokens_positive": [[2, 5]]}  # fmt: skip
COCO = json.dumps({"images": [IMAGE], "annotations": [CAPTION],
                   "categories": [{"id": 1, "name": "cat"}]})  # fmt: skip
ODVG = json.dumps({"filename": "a.jpg", "grounding": {"caption": "a cat", "regions": []}})
READERS = {
    "lines.txt": (lambda p: list(LineFile(p)), "a cat\nb\n"),
    "names.txt": (read_names, "cat\ndog"),
    "names.csv": (read_names, "name,definition\ncat,an animal"),
    "pairs.tsv": (lambda p: list(CaptionTsv(p, "", "{sha1}.jpg", 1, 0)), "http://a/b.jpg\ta cat"),
    "pairs.jsonl": (lambda p: list(CaptionJsonl(p, "")), '{"image": "a.jpg", "caption": "a cat"}'),
    "odvg.jsonl": (lambda p: list(OdvgFile(p, "")), ODVG),
    "label_map.json": (odvg_names, '{"0": "cat"}'),
    "concepts.jsonl": (lambda p: ConceptDictionary.load(p).concepts, '{"name": "cat"}'),
    "categories.json": (names_of_json, COCO),
    "captions.json": (lambda p: coco_caption_records(p, ""), COCO),
    "grounding.json": (lambda p: mdetr_records(p, ""), COCO),
    "config.yaml": (lambda p: dict(load_config(p)[0]), "world: {size: 3}"),
}


@pytest.mark.parametrize("name", READERS)
def test_it_is_no_part_of_the_content(tmp_path, name):
    read, text = READERS[name]
    path = tmp_path / name
    path.write_text(text)
    expected = read(str(path))
    assert expected
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read(str(path)) == expected


def test_noun_phrases_of_a_table(tmp_path):
    found = []
    for name, mark in (("plain", b""), ("marked", codecs.BOM_UTF8)):
        path = tmp_path / f"{name}.tsv"
        path.write_bytes(mark + b"http://a/b.jpg\ta brown cat\n")
        output = ["--output", str(tmp_path / name), "--backend", "rules", "--workers", "1"]
        columns = ["--caption-column", "1", "--url-column", "0"]
        assert detclip2(["phrases", str(path), *output, *columns]) == 0
        found.append((tmp_path / name / "phrases-000000.jsonl").read_text())
    assert found[0] == found[1]
    assert "brown cat" in found[0]

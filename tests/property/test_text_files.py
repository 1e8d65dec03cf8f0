"""Damaged lists of captions, grounding lines, dictionaries, names and configs."""

from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detclip2.config import inference_settings, load_config
from detclip2.data.datasets.captions import CaptionJsonl, CaptionTsv
from detclip2.data.datasets.flickr30k_entities import flickr30k_entities_records
from detclip2.data.datasets.grounding import OdvgFile, odvg_names
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.data.text.names import read_names
from detclip2.data.text.noun_phrases.offline import plan_parts
from detclip2.data.text.noun_phrases.records import Options, read_records
from detclip2.evaluation.phrase_grounding import mentions_of
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.files import json_bytes
from tests.helpers.damage import damaged_bytes, json_files, json_lines, not_finite, trees
from tests.helpers.fuzzing import check_samples, result_of, rewrite

pytestmark = pytest.mark.slow  # 2,000 files a test

TSV = b"a red dog\thttp://x/a.png\ntwo cats\thttp://x/b.png\n\n"
PAIR = {"image": "a.png", "caption": "a red dog", "phrases": ["a red dog"], "image_id": 7}
PAIRS = {"image": "b.png", "caption": ["two cats", "a cat by a tree"]}
GROUNDED = {
    "filename": "a.png", "height": 8, "width": 8,
    "grounding": {"caption": "a red dog by a tree", "regions": [
        {"phrase": "a red dog", "bbox": [0, 0, 4, 4], "tokens_positive": [[0, 9]]},
        {"phrase": ["a tree"], "bbox": [[1, 1, 4, 4], [2, 2, 4, 4]]},
    ]},
}  # fmt: skip
DETECTED = {
    "filename": "b.png", "height": 8, "width": 8,
    "detection": {"instances": [{"bbox": [0, 0, 4, 4], "label": 0, "category": "red"}]},
}  # fmt: skip
CONCEPT = {"name": "bat", "definition": "an animal", "synonyms": ["flying fox"], "count": 3}
NAMES = "red apple\n\nfire engine, a lorry\ncafé\n".encode()
CSV = b'name,synonyms,definition\nbat,"flying fox; bats","an animal, flying"\nred apple,,\n'
CONFIG = {
    "model": {"_target_": "detclip2.modeling.DetCLIPv2", "head": {"num_convs": 1, "size": [1, 2]}},
    "inference": {"min_size": 96, "max_size": "${model.head.num_convs}", "score_threshold": 0.1},
    "train": {"seed": 0, "output_dir": "output/${train.seed}"},
}
SENTENCES = (
    b"[/EN#1/people A red dog] by [/EN#2/other/scene a tree] .\nTwo [/EN#0/notvisual cats] .\n"
)
KEEP = ["caption", "phrase_spans"]
CAPTION_MAPPER = CaptionMapper(keep=KEEP)
GROUNDING_MAPPER = GroundingMapper(negatives=["a cat"], keep=KEEP)
DETECTION_MAPPER = DetectionMapper(["red", "blue"])
BOXES = (
    b"<annotation><size><width>8</width><height>8</height></size><object><name>1</name>"
    b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>"
    b"<object><name>2</name><nobndbox>1</nobndbox></object></annotation>"
)


def lines_of(content):
    return [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]


@given(damaged_bytes(TSV, text=True))
def test_caption_tsv(folder, content):
    path = str(rewrite(folder / "captions.tsv", content))
    records = result_of(CaptionTsv, path, str(folder), "a.png")
    assert len(records) == len(lines_of(content))
    check_samples(records, CAPTION_MAPPER)


@given(json_lines(PAIR, PAIRS))
def test_caption_jsonl(folder, content):
    records = result_of(CaptionJsonl, str(rewrite(folder / "captions.jsonl", content)), str(folder))
    assert len(records) == len(lines_of(content))
    check_samples(records, CAPTION_MAPPER)


@given(json_lines(GROUNDED, DETECTED))
def test_odvg(folder, content):
    records = result_of(OdvgFile, str(rewrite(folder / "odvg.jsonl", content)), str(folder))
    assert len(records) == len(lines_of(content))
    check_samples(records, GROUNDING_MAPPER)
    check_samples(records, DETECTION_MAPPER)


@given(json_files({"0": "person", "2": "dog"}))
def test_odvg_names(folder, content):
    names = result_of(odvg_names, str(rewrite(folder / "names.json", content)))
    assert names is None or all(isinstance(name, str) for name in names)


@given(json_lines(CONCEPT, {"name": "dog"}))
def test_concepts(folder, content):
    concepts = result_of(ConceptDictionary.load, rewrite(folder / "concepts.jsonl", content))
    if concepts is not None:
        negatives = concepts.sample_negatives(np.random.default_rng(0), 2, ["a dog"])
        assert len(negatives) <= len(concepts)


@pytest.mark.parametrize(
    ("suffix", "files"),
    [
        ("txt", damaged_bytes(NAMES, text=True)),
        ("tsv", damaged_bytes(TSV, text=True)),
        ("jsonl", json_lines(PAIR, PAIRS)),
    ],
)
def test_phrases(folder, suffix, files):
    """Every line gives a caption or is counted."""
    skips = ("record-malformed", "caption-encoding", "caption-empty", "caption-several")

    @given(files)
    def check(content):
        path = str(rewrite(folder / f"captions.{suffix}", content))
        parts = result_of(plan_parts, [path], 2)
        counts = Counter()
        records = [one for part in parts for one in read_records(part, Options("rules"), counts)]
        assert counts["captions"] + sum(counts[kind] for kind in skips) == len(lines_of(content))
        json_bytes(records)

    check()


@given(damaged_bytes(NAMES, CSV, text=True), st.sampled_from([".txt", ".csv", ".json"]))
def test_names(folder, content, suffix):
    path = rewrite(folder / f"names{suffix}", content)
    vocabulary = result_of(Vocabulary.from_file, path, synonyms="max")
    if vocabulary is not None:
        entries, _ = read_names(path)
        assert 1 <= len(vocabulary) <= len(entries)
        assert all(prompt for rows in vocabulary.prompts for row in rows for prompt in row)


@given(st.one_of(trees(CONFIG).map(yaml_text := lambda tree: yaml.safe_dump(tree).encode()),
                 damaged_bytes(yaml_text(CONFIG), text=True)))  # fmt: skip
def test_configs(folder, content):
    loaded = result_of(load_config, rewrite(folder / "config.yaml", content))
    if loaded is not None:
        settings = result_of(inference_settings, *loaded)
        assert settings is None or not not_finite(list(vars(settings).values()))


@given(damaged_bytes(SENTENCES, text=True), damaged_bytes(BOXES, text=True),
       damaged_bytes(b"1\n", most=1, text=True))  # fmt: skip
def test_flickr30k_entities(folder, sentences, boxes, split):
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(exist_ok=True)
    rewrite(folder / "Sentences/1.txt", sentences)
    rewrite(folder / "Annotations/1.xml", boxes)
    rewrite(folder / "test.txt", split)
    for record in result_of(flickr30k_entities_records, str(folder), str(folder)) or ():
        result_of(mentions_of, record)
        assert record["width"] > 0
        assert record["mentions"]
        assert all(not not_finite(mention.boxes) for mention in record["mentions"])

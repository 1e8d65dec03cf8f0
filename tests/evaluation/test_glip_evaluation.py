"""The evaluations of GLIP's configs on small data, with a tiny model."""

import itertools
import json
import math
import string
from dataclasses import replace

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image
from torchvision.ops import box_iou

from detclip2 import cli, get_config
from detclip2.commands import odinw as odinw_command
from detclip2.config import InferenceSettings
from detclip2.data.datasets.flickr30k_entities import flickr30k_entities_records
from detclip2.data.datasets.odinw import odinw_sets
from detclip2.data.mappers.phrase_grounding import Mention, MentionMapper, caption_phrases_of
from detclip2.engine.train_loop import evaluate
from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator, grounding_set
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_of_user
from tests.helpers.tiny_glip import tiny_glip

SENTENCE = "[/EN#1/people A man] in  a manhole sees [/EN#2/people a man] with [/EN#0/other a hat] ."
ANNOTATION = """\
<annotation><size><width>96</width><height>64</height></size>
  <object><name>1</name><bndbox>
    <xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>60</ymax></bndbox></object>
  <object><name>2</name><bndbox>
    <xmin>50</xmin><ymin>2</ymin><xmax>90</xmax><ymax>60</ymax></bndbox></object>
</annotation>
"""


@pytest.fixture(scope="module")
def model():
    return tiny_glip().eval()


@pytest.fixture
def flickr30k(tmp_path):
    for name in ("Annotations", "Sentences", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "Annotations" / "11.xml").write_text(ANNOTATION)
    (tmp_path / "Sentences" / "11.txt").write_text(SENTENCE)
    (tmp_path / "test.txt").write_text("11\n")
    Image.effect_noise((96, 64), 90).convert("RGB").save(tmp_path / "images" / "11.jpg")
    return tmp_path


def test_mentions_know_their_place_in_the_caption(flickr30k):
    [record] = flickr30k_entities_records(str(flickr30k), "images")
    assert record["caption"] == "A man in a manhole sees a man with a hat ."
    assert record["mention_spans"] == [[(0, 5)], [(24, 29)]]
    asked = caption_phrases_of(record)
    assert list(asked) == ["A man", "a man"]
    assert asked.spans == (((0, 5),), ((24, 29),))


def test_other_records_have_phrases_wherever_the_caption_has_them():
    record = {"image_id": 1, "caption": "a cat and a cat", "mentions": [Mention("cat", ())]}
    assert caption_phrases_of(record).spans == (((2, 5), (12, 15)),)
    with pytest.raises(UserError, match="image 1: the caption 'a dog' does not have the phrase"):
        caption_phrases_of({**record, "caption": "a dog"})


def test_each_mention_has_its_own_boxes(flickr30k, tmp_path):
    records = flickr30k_entities_records(str(flickr30k), str(flickr30k / "images"))
    grounding_set("two men", records)
    sample = MentionMapper([], whole_captions=True)(records[0])
    right = [[1.0, 2, 30, 60], [50, 2, 90, 60]]

    def recall(classes, whole):
        evaluator = PhraseGroundingEvaluator("two men", whole_captions=whole)
        found = Instances(
            (64, 96),
            pred_boxes=Boxes(torch.tensor(right)),
            scores=torch.tensor([0.9, 0.8]),
            pred_classes=torch.tensor(classes),
        )
        asked = sample["vocabulary"] if whole else ["A man"]
        evaluator.process([{**sample, "vocabulary": asked}], [{"instances": found}])
        return evaluator.evaluate()["any_box"]["R@1"]

    assert recall([0, 1], whole=True) == 100
    assert recall([1, 0], whole=True) == 0
    assert recall([0, 0], whole=False) == 50, "one phrase has one best box"
    evaluator = PhraseGroundingEvaluator("two men")
    with pytest.raises(UserError, match="expected the phrases of the caption"):
        evaluator.key_of(sample)


def small(name, folder):
    """A config of the project for small images, without worker processes."""
    cfg = LazyConfig.load(config_of_user(name))
    cfg.train = OmegaConf.merge(get_config("train.py").train, cfg.train)
    cfg.train.output_dir = str(folder / "output")
    cfg.inference.update(min_size=64, max_size=96)
    cfg.dataloader.test.num_workers = 0
    return cfg


def test_flickr30k(model, flickr30k):
    cfg = small("flickr30k_glip_t", flickr30k)
    cfg.flickr30k.folder = str(flickr30k)
    results = evaluate(cfg, model)
    assert list(results) == ["any_box", "merged_boxes"]
    folder = flickr30k / "output" / "inference"
    assert "whole captions" in (folder / "grounding_results.json").read_text()
    # The same from the model itself, mention by mention.
    [record] = flickr30k_entities_records(str(flickr30k), str(flickr30k / "images"))
    sample = instantiate(cfg.dataloader.test.mapper)(record)
    [found] = model.inference([sample])
    assert {*found.pred_classes.tolist()} == {0, 1}
    of_mention = [found[found.pred_classes == m] for m in (0, 1)]
    right = 0
    for own, mention in zip(of_mention, record["mentions"], strict=True):
        best = own.pred_boxes.tensor[own.scores.argsort(descending=True)[:10]]
        right += bool((box_iou(best, torch.tensor(mention.boxes)) >= 0.5).any())
    assert results["any_box"]["R@10"] == 50 * right


def coco(root, name="coco/annotations/instances_val2017.json"):
    """Two images with boxes, in Detectron2's layout."""
    for number in (1, 2):
        path = root / "coco" / "val2017" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((96, 64), 90).convert("RGB").save(path)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 96} for i in (1, 2)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 2 * i, "bbox": [8, 8, 40, 40], "area": 1600}
        for i in (1, 2)
    ]
    if name.startswith("lvis"):
        for image, box in zip(images, boxes, strict=True):
            image.update(coco_url=f"http://x/val2017/{image['id']}.jpg", neg_category_ids=[])
            image["not_exhaustive_category_ids"] = []
            box["segmentation"] = [[8, 8, 48, 8, 48, 48]]
    names = ["fire_hydrant", "zebra", "dog", "cat_(pet)"]
    if name.startswith("lvis"):
        short = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
        names += itertools.islice(short, 1203 - len(names))
    categories = [
        {"id": i, "name": name, "frequency": "f", "synonyms": [name]}
        for i, name in enumerate(names, start=1)
    ]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": categories, "info": {}})
    )


def test_coco(model, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    coco(tmp_path)
    model.postprocess.thresholds = replace(model.postprocess.thresholds, max_detections=100)
    results = evaluate(small("coco_glip_t", tmp_path), model)
    assert 0 <= results["bbox"]["AP"] <= 100
    found = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    assert {entry["image_id"] for entry in found} == {1, 2}


def test_lvis_is_asked_for_forty_names_at_a_time(tmp_path, monkeypatch):
    """Of a batch of several images, all are evaluated."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    coco(tmp_path, "lvis/lvis_v1_minival_inserted_image_name.json")
    known = set(DatasetCatalog.list())
    try:
        cfg = small("lvis_glip_t", tmp_path)
        assert cfg.model.names_per_caption == 40
        cfg.dataloader.test.batch_size = 2
        model = tiny_glip(names_per_caption=40).eval()
        results = evaluate(cfg, model)
    finally:
        for name in set(DatasetCatalog.list()) - known:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    captions = [caption.text for caption in model.text_bank.state(model.prepare_rows).captions]
    *full, last = (len(caption.split(". ")) for caption in captions)
    assert set(full) == {40}
    # The names of the real Detectron2 are LVIS's, of which some are equal without brackets.
    assert 1190 < sum(full) + last <= 1203
    assert {"bbox", "bbox_fixed"} <= set(results)
    assert math.isfinite(results["bbox_fixed"]["AP"])


def test_written_prompts_of_odinw_are_one_caption():
    for one in odinw_sets(13):
        asked = one.vocabulary(13, written=True)
        assert list(asked) == one.prompts(13, written=True)
        if not one.written_prompts:
            continue
        assert asked.caption == ". ".join(one.written_prompts)
        words = [asked.caption[begin:end] for ((begin, end),) in asked.spans]
        assert words == list(one.scored_words)
        begins = [span[0][0] for span in asked.spans]
        assert begins == sorted(begins)
    [pothole] = odinw_sets(13, ["pothole"])
    asked = pothole.vocabulary(13, written=True)
    assert asked.spans == (((15, 20),),), "holes, not the words around them"


def test_odinw_in_one_command(model, tmp_path, monkeypatch):
    [pothole] = odinw_sets(13, ["pothole"])
    path = pothole.annotations(tmp_path, "valid")
    path.parent.mkdir(parents=True)
    Image.effect_noise((96, 64), 90).convert("RGB").save(path.parent / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 64, "width": 96}],
        "categories": [{"id": 1, "name": "pothole"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40], "area": 1600}
        ],
    }
    path.write_text(json.dumps(content))
    predictor = OpenVocabularyPredictor.from_model(model, InferenceSettings(64, 96))
    monkeypatch.setattr(odinw_command, "load_predictor", lambda *_, **__: predictor)
    states = []
    prepare = model.prepare_vocabulary
    monkeypatch.setattr(
        model, "prepare_vocabulary", lambda *asked: states.append(prepare(*asked)) or states[-1]
    )
    arguments = ["odinw", str(tmp_path), "--output", str(tmp_path / "o"), "--prompts", "written"]
    assert cli.main(arguments) == 0
    assert {*map(id, states)} == {id(states[0])}
    [caption] = states[0].captions
    assert caption.text == "there are some holes on the road"
    of_holes = predictor.model.text_encoder.num_tokens(["holes"])[0]
    assert (caption.weights > 0).sum() == of_holes
    assert json.loads((tmp_path / "o" / "pothole.json").read_text())

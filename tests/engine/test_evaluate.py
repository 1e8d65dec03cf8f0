"""Vocabulary and results of an evaluation, with a model and evaluators that record their calls."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf
from torch import nn

from detclip2.config import get_config
from detclip2.engine.train_loop import best_metric, evaluate, metrics_of
from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError

NAMES = {"pets": ["cat", "dog", "dog"], "tools": ["hammer"]}


@pytest.fixture(autouse=True)
def _data_sets():
    for name, classes in NAMES.items():
        MetadataCatalog.get(name).thing_classes = classes
    yield
    for name in NAMES:
        MetadataCatalog.remove(name)
        DatasetCatalog.pop(name, None)


class Model(nn.Module):
    """Records its vocabularies; the embedding of a phrase is its length and its first letter."""

    embed_dim = 2
    text_identity = "tower-2"
    reads_names = False

    def __init__(self):
        super().__init__()
        self.asked = []
        self.vocabulary = None

    def encode_phrases(self, phrases):
        return torch.tensor([[float(len(p)), float(ord(p[0]))] for p in phrases])

    def set_vocabulary(self, vocabulary):
        self.vocabulary = vocabulary.embeddings

    def forward(self, samples):
        self.asked.append(self.vocabulary)
        return samples


class Loader(list):
    def __init__(self, batches):
        super().__init__([{"image_id": i}] for i in range(batches))


class Notes(StreamingEvaluator):
    """Results with the number of images, and the prompts."""

    def __init__(self, dataset_name, key="bbox"):
        super().__init__(Protocol(dataset_name, "", "", ""), (), "")
        self.key = key

    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)

    def evaluate(self):
        ALL_NOTES.append(str(self.protocol))
        return {self.key: {"AP": float(self.images)}}


ALL_NOTES = []


def config(dataloader, **keys):
    cfg = OmegaConf.create({"dataloader": dataloader}, flags={"allow_objects": True})
    cfg.train = {**get_config("train.py").train, **keys}
    return cfg


def a_set(name, batches, loader="test", **vocabulary):
    return {
        loader: L(Loader)(batches=batches),
        "evaluator": L(Notes)(dataset_name=name),
        "vocabulary": L(Vocabulary.of_dataset)(dataset_name=name, **vocabulary),
    }


def test_the_vocabulary_is_evaluated_and_in_the_protocol():
    ALL_NOTES.clear()
    definitions = {"dog": "it barks"}
    model = Model()
    cfg = config(a_set("pets", 3, templates=["a {}"], definitions=definitions))
    assert evaluate(cfg, model) == {"bbox": {"AP": 3.0}}
    prompts = ["a cat", "a dog, it barks", "a dog, it barks"]
    expected = nn.functional.normalize(model.encode_phrases(prompts), dim=1)
    assert len(model.asked) == 3
    for asked in model.asked:
        torch.testing.assert_close(asked, expected)
    (line,) = ALL_NOTES
    assert (
        "prompts: 3 names (cat, dog, ...), 1 template (a {}), 2 with definitions, "
        "text encoder tower-2;"
    ) in line


def test_several_test_sets_have_results_under_their_names():
    model = Model()
    tests = {"of_pets": a_set("pets", 2, "loader"), "of_tools": a_set("tools", 1, "loader")}
    expected = {"of_pets": {"bbox": {"AP": 2.0}}, "of_tools": {"bbox": {"AP": 1.0}}}
    assert evaluate(config({"tests": tests}), model) == expected
    assert [len(asked) for asked in model.asked] == [3, 3, 1]
    both = {**a_set("tools", 4), "tests": tests}
    assert evaluate(config(both), Model()) == {"bbox": {"AP": 4.0}, **expected}
    part = config({})
    part.another = a_set("tools", 1)
    assert evaluate(part, Model(), "another") == {"bbox": {"AP": 1.0}}


def test_without_a_vocabulary_samples_use_their_own():
    ALL_NOTES.clear()
    own = {**a_set("pets", 1), "vocabulary": None}
    model = Model()
    evaluate(config(own), model)
    assert model.asked == [None]
    assert "prompts: not stated;" in ALL_NOTES[0]
    del own["vocabulary"]
    with pytest.raises(UserError, match=r"dataloader\.vocabulary is missing"):
        evaluate(config(own), model)


def test_a_fast_dev_run_evaluates_on_a_few_batches():
    assert evaluate(config(a_set("pets", 9), fast_dev_run=True), Model()) == {"bbox": {"AP": 2.0}}


@pytest.mark.parametrize(
    ("evaluator", "metric"),
    [
        (LVISFixedAPEvaluator, "bbox_fixed/AP"),
        (CheckedCOCOEvaluator, "bbox/AP"),
        (PhraseGroundingEvaluator, "any_box/R@1"),
        (AverageRecallEvaluator, "box_recall/AR@100"),
        ("detectron2.evaluation.COCOEvaluator", "bbox/AP"),
    ],
)
def test_the_evaluators_metric_chooses_the_best(evaluator, metric):
    node = {"_target_": evaluator, "dataset_name": "pets"}
    assert best_metric(config({"test": {}, "evaluator": node})) == metric
    several = config({"tests": {"lvis": {"evaluator": node}, "other": {"evaluator": {}}}})
    assert best_metric(several) == f"lvis/{metric}"
    assert best_metric(config({"evaluator": node}, best_metric="bbox/AP50")) == "bbox/AP50"


def test_an_undefined_result_is_no_metric():
    results = {"bbox": {"AP": 1.5, "AP-cat": float("nan")}, "count": 3}
    assert metrics_of(results) == {"bbox/AP": 1.5, "count": 3}

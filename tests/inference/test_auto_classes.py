"""The auto classes of transformers give the detections of the predictor."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline

from detclip2 import OpenVocabularyPredictor
from detclip2.inference.auto_classes import (
    TASK,
    DetCLIP2ForObjectDetection,
    DetCLIP2Processor,
    decoded_names,
    encoded_names,
    register,
)
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED

NAMES = ["red apple", "пёс", "t-shirt. size L"]
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(70, 90), (120, 60)]]


@pytest.fixture(scope="module")
def folder(nano_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto") / "model"
    shutil.copytree(nano_folder, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "detclip2"}))
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    register()
    register()
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(model, DetCLIP2ForObjectDetection)
    assert isinstance(processor, DetCLIP2Processor)
    return model, processor


@pytest.fixture(scope="module")
def predictor(folder):
    return OpenVocabularyPredictor(folder, device="cpu", score_threshold=0.05)


def assert_same(found, expected):
    assert len(found["labels"]) == len(expected) > 3
    torch.testing.assert_close(found["scores"], expected.scores, atol=1e-5, rtol=0)
    assert sorted(found["labels"]) == sorted(expected.labels)
    assert found["labels"] == found["text_labels"]
    torch.testing.assert_close(
        found["boxes"].sum(0), expected.pred_boxes.tensor.sum(0), atol=0.5, rtol=1e-3
    )


def test_names_survive_as_bytes():
    names = [NAMES, ["x"], ["りんご", "a" * 300]]
    assert decoded_names(encoded_names(names)) == names


def test_images_of_a_batch_with_names_of_their_own(loaded, predictor):
    model, processor = loaded
    names = [NAMES, NAMES[:1]]
    inputs = processor(images=IMAGES, text=names, return_tensors="pt").to("cpu")
    sizes = [image.shape[:2] for image in IMAGES]
    found = processor.post_process_grounded_object_detection(model(**inputs), target_sizes=sizes)
    for one, image, of_image in zip(found, IMAGES, names, strict=True):
        assert_same(one, predictor(image, vocabulary=of_image))
        assert set(one["labels"]) <= set(of_image)


def test_thresholds_and_fractions(loaded):
    model, processor = loaded
    outputs = model(**processor(images=Image.fromarray(IMAGES[0]), text=NAMES))
    [everything] = processor.post_process_grounded_object_detection(outputs)
    assert everything["boxes"].max() <= 1
    middle = float(everything["scores"].median())
    [some] = processor.post_process_grounded_object_detection(outputs, threshold=middle)
    assert 0 < len(some["scores"]) < len(everything["scores"])
    assert some["scores"].min() >= middle
    [called] = processor.post_process_grounded_object_detection(
        outputs, text_labels=[["A", "B", "C"]]
    )
    assert set(called["labels"]) <= {"A", "B", "C"}


def test_text_with_full_stops_as_grounding_dino_reads_it(loaded):
    _, processor = loaded
    inputs = processor(images=IMAGES, text="a cat. a remote control.")
    assert decoded_names(inputs["input_ids"]) == [["a cat", "a remote control"]] * 2
    inputs = processor(images=IMAGES, text=["a cat. a dog.", "an owl."][:1] * 2)
    assert decoded_names(inputs["input_ids"])[0] == ["a cat. a dog.", "a cat. a dog."]


@pytest.mark.parametrize("text", [None, [], "", [["a"]], [["a"], []], [["a"], [3]]])
def test_text_that_is_none(loaded, text):
    with pytest.raises(UserError):
        loaded[1](images=IMAGES, text=text)


def test_all_names_in_one_pass(loaded, folder, predictor):
    detect = pipeline(TASK, model=str(folder))
    assert type(detect.model) is DetCLIP2ForObjectDetection
    passes = []
    detect.model.register_forward_hook(lambda *_: passes.append(1))
    image = Image.fromarray(IMAGES[0])
    found = detect(image, candidate_labels=NAMES, threshold=0.05)
    assert len(passes) == 1
    expected = predictor(IMAGES[0], vocabulary=NAMES)
    assert [one["label"] for one in found] == expected.labels
    assert [one["score"] for one in found] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    box = expected.pred_boxes.tensor[0].int().tolist()
    assert list(found[0]["box"].values()) == pytest.approx(box, abs=1)
    assert (
        detect(image, candidate_labels="red apple,x", threshold=0.05, top_k=2)
        == (detect(image, candidate_labels=["red apple", "x"], threshold=0.05)[:2])
    )
    several = detect([image, image], candidate_labels=NAMES, threshold=0.05)
    assert [len(one) for one in several] == [len(found)] * 2


@pytest.mark.parametrize("name", SHIPPED)
def test_the_models_that_ship_are_loaded(loaded, name):
    assert AutoProcessor.from_pretrained(SHIPPED[name]).settings.min_size > 0


def test_names_are_encoded_once(loaded, monkeypatch):
    model, processor = loaded
    inputs = processor(images=IMAGES[0], text=["one thing", "another thing"])
    model(**inputs)
    monkeypatch.setattr(model._predictor, "encode", lambda _: pytest.fail("encoded again"))
    model(**inputs)


def test_sahi_loads_it_and_slices(loaded, folder, predictor):
    from sahi import AutoDetectionModel, predict

    register()
    detector = AutoDetectionModel.from_pretrained(
        "huggingface", model_path=str(folder), text_labels=NAMES, confidence_threshold=0.05,
        device="cpu",
    )  # fmt: skip
    found = predict.get_prediction(IMAGES[0], detector).object_prediction_list
    expected = predictor(IMAGES[0], vocabulary=NAMES)
    assert [one.category.name for one in found] == expected.labels
    scores = [one.score.value for one in found]
    assert scores == pytest.approx(expected.scores.tolist(), abs=1e-5)
    sliced = predict.get_sliced_prediction(
        np.tile(IMAGES[0], (2, 2, 1)), detector, slice_height=70, slice_width=90,
        overlap_height_ratio=0, overlap_width_ratio=0, perform_standard_pred=False, verbose=0,
    )  # fmt: skip
    assert {one.category.name for one in sliced.object_prediction_list} <= set(NAMES)
    assert len(sliced.object_prediction_list) > 3

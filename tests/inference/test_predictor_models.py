"""The predictor from real configs and weights, and from invalid ones."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from safetensors.torch import save_file

from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED, read_model_folder
from tests.helpers.color_model import equal, identical


@pytest.fixture(scope="module")
def nano(nano_folder):
    return OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")


def test_the_default_model_is_used_without_a_config(nano_folder, monkeypatch):
    monkeypatch.setenv("DETCLIP2_MODEL", str(nano_folder))
    predictor = OpenVocabularyPredictor(device="cpu", score_threshold=0.25)
    assert predictor.settings.min_size == 96
    assert predictor.thresholds.score_threshold == 0.25
    with pytest.raises(UserError, match="give the config"):
        OpenVocabularyPredictor(weights=nano_folder / "model.safetensors")


def test_a_folder_or_a_name_in_place_of_config_and_weights(nano, nano_folder, monkeypatch):
    monkeypatch.setitem(SHIPPED, "emoji_nano", nano_folder)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = nano(image, vocabulary="cat")
    for model in (nano_folder, str(nano_folder), "emoji_nano"):
        found = OpenVocabularyPredictor(model, device="cpu")(image, vocabulary="cat")
        assert identical(found, expected)
    with pytest.raises(UserError, match="did you mean 'emoji_nano'"):
        OpenVocabularyPredictor("emoji_nan")


def test_settings_of_the_constructor_override_the_config(nano_folder, nano_config):
    config, weights = read_model_folder(nano_folder)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    def count(predictor, **settings):
        predictor.set_vocabulary("cat, dog")
        return len(predictor(image, **settings))

    of_config = OpenVocabularyPredictor(config, weights, "cpu")
    everything = count(of_config)
    assert everything > 10
    own = OpenVocabularyPredictor(config, weights, "cpu", max_detections=7, batch_size=2)
    assert count(own) == 7
    assert count(own, max_detections=3) == 3
    assert own.settings.batch_size == 2
    middle = float(of_config(image).scores.median())
    own = OpenVocabularyPredictor(config, weights, "cpu", score_threshold=middle)
    assert 0 < count(own) < everything
    assert count(own, score_threshold=0.0) == everything
    cfg = OmegaConf.create(nano_config, flags={"allow_objects": True})
    cfg.inference.update(class_agnostic_nms=True, nms_threshold=0.1)
    strict = OpenVocabularyPredictor(cfg, weights, "cpu")
    few = count(of_config, class_agnostic_nms=True, nms_threshold=0.1)
    assert count(strict) == few < everything
    assert count(strict, class_agnostic_nms=False, nms_threshold=0.6) == everything


def test_repeated_calls_are_bit_identical(nano, nano_folder):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    nano.set_vocabulary("cat, dog")
    another = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    another.set_vocabulary("cat, dog")
    expected = nano(image)
    for again in (nano(image), nano([image])[0], another(image)):
        assert identical(again, expected)


def test_threads_give_the_results_of_one(nano):
    """Two threads, each with its own images, names and settings, share one predictor."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 60 + 10 * i, 3), dtype=np.uint8) for i in range(6)]
    nano.set_vocabulary("cat")
    calls = [
        {"vocabulary": ["red apple", "drum"], "score_threshold": 0.05},
        {"vocabularies": [[f"thing {i}"] for i in range(6)], "max_detections": 5},
    ]
    expected = [nano(images, **call) for call in calls]
    found = [[], []]
    barrier = threading.Barrier(2)

    def work(i):
        barrier.wait()
        found[i] += [nano(images, **calls[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 5
        for result in results:
            assert all(map(identical, result, wanted))
    assert nano.vocabulary.labels == ("cat",)


def test_nano_batched_equals_one_by_one(nano):
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (80, 60), (60, 80), (33, 97), (1, 1), (60, 80), (1, 300), (300, 1)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    nano.set_vocabulary(["red apple", "пожарная машина"])
    together = nano(images)
    for image, result in zip(images, together, strict=True):
        assert equal(result, nano(image))
        assert len(result) > 0
        assert {*result.labels} <= {"red apple", "пожарная машина"}
        boxes = result.pred_boxes.tensor
        height, width = image.shape[:2]
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert ((result.scores >= 0) & (result.scores <= 1)).all()


def test_nano_saved_vocabulary_gives_the_same(nano, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    names = [["truck", "lorry"], "red apple"]
    nano.encode(names).save(tmp_path / "v.safetensors")
    expected = nano(image, vocabulary=names)
    assert equal(nano(image, vocabulary=tmp_path / "v.safetensors"), expected)
    assert {*expected.labels} == {"truck", "red apple"}


def test_nano_5000_names(nano):
    names = [f"thing number {i}" for i in range(5000)]
    nano.set_vocabulary(names)
    result = nano(np.zeros((32, 32, 3), np.uint8), max_detections=10)
    assert [names[i] for i in result.pred_classes] == result.labels


def test_a_loaded_config_and_torch_weights(nano_config, nano, tmp_path):
    model = {"model": nano.model.state_dict(), "iteration": 7}
    torch.save(model, tmp_path / "model.pth")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    loaded = OpenVocabularyPredictor(nano_config, tmp_path / "model.pth", "cpu")
    assert equal(loaded(image, vocabulary="cat"), nano(image, vocabulary="cat"))


def test_weights_that_do_not_fit_or_need_pickle(nano_config, nano, tmp_path):
    state = nano.model.state_dict()
    name = next(key for key, value in state.items() if value.ndim == 4)
    missing = {key: value for key, value in state.items() if key != name}
    for wrong, reason in [
        (missing, f"missing {name}"),
        (missing | {name: state[name][:1]}, r"\(1, .* expected \("),
        (state | {"extra.weight": torch.zeros(1)}, "unknown extra.weight"),
    ]:
        save_file(wrong, tmp_path / "w.safetensors")
        with pytest.raises(UserError, match=reason) as error:
            OpenVocabularyPredictor(nano_config, tmp_path / "w.safetensors", "cpu")
        assert "w.safetensors" in str(error.value)
    torch.save({"model": state, "hook": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="pickle"):
        OpenVocabularyPredictor(nano_config, tmp_path / "w.pth", "cpu")
    with pytest.raises(UserError, match="no weights file"):
        OpenVocabularyPredictor(nano_config, tmp_path / "missing.safetensors", "cpu")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("model.align.priors", "model.align has no key 'priors'; did you mean 'prior'"),
        ("model.head.num_conv", "'num_convs'"),
        ("inference.min_sise", "inference has no key 'min_sise'; did you mean 'min_size'"),
    ],
)
def test_a_misspelt_key_is_named_with_the_right_one(nano_config, tmp_path, key, reason):
    cfg = OmegaConf.create(nano_config, flags={"allow_objects": True})
    OmegaConf.update(cfg, key, 3, force_add=True)
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    for source in (path, cfg):
        with pytest.raises(UserError, match=reason):
            OpenVocabularyPredictor(source)
    with pytest.raises(UserError, match=r"config\.yaml"):
        OpenVocabularyPredictor(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inference": None}, "'inference' is missing"),
        ({"inference": {"min_size": 9}}, "inference: key 'max_size' is missing"),
        ({"inference": {"min_size": 0, "max_size": 9}}, "positive"),
        ({"inference": {"min_size": 9, "max_size": 9, "max_detections": 0}}, "inference: max_det"),
        ({"inference": {"min_size": "big", "max_size": 9}}, "`inference` is wrong"),
        ({"model": None, "modle": {}}, "'model' is missing; is 'modle' misspelt"),
        ({"model": "${nothing}"}, "'model' cannot be read"),
        (
            {"model": {"_target_": "detclip2.modeling.meta_arch.detclipv2.DetCLIPv3"}},
            "cannot be imported",
        ),
        ({"model": {"_target_": "torch.nn.Linear", "in_features": 3}}, "cannot be built"),
        ({"model": {"_target_": "collections.Counter"}}, "describes a Counter"),
    ],
)
def test_configs_that_describe_no_predictor(change, reason):
    cfg = {"inference": {"min_size": 9, "max_size": 9}, "model": {"_target_": "torch.nn.Identity"}}
    with pytest.raises(UserError, match=reason):
        OpenVocabularyPredictor({**cfg, **change})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("c.py", None, "does not exist"),
        ("c.txt", "", r"is a \.py or \.yaml file"),
        ("c.py", "model = (", "SyntaxError"),
        ("c.py", "model = modle", "NameError: name 'modle'"),
        ("c.py", "import nothing_of_this_name", "nothing_of_this_name"),
        ("c.yaml", "a: [", "cannot be loaded"),
        ("c.yaml", "- 1", "holds no keys"),
    ],
)
def test_config_files_that_do_not_load(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        OpenVocabularyPredictor(tmp_path / name)
    assert name in str(error.value)


def test_a_device_that_does_not_exist(nano_config):
    for device in ("toaster", "cuda:99"):
        with pytest.raises(UserError, match=device):
            OpenVocabularyPredictor(nano_config, device=device)

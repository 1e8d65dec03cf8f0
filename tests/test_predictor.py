import itertools
import math
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from videos import write

from detclip2.config import InferenceSettings
from detclip2.data.video_io import Video
from detclip2.errors import UserError
from detclip2.model_folder import read_model_folder
from detclip2.predictor import OpenVocabularyPredictor
from detclip2.vocabulary import PROBE, Vocabulary

COLORS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


class ColorModel(nn.Module):
    """A model with DetCLIPv2's interface whose right answers are known.

    The embedding of a colour's name is the colour, and a name is found where its colour is.
    """

    embed_dim = 3

    class PostProcess:
        score_threshold = 0.5
        nms_threshold = 0.6
        class_agnostic_nms = False
        max_detections = 100

    class TextTower(nn.Module):
        identity = "colours"

    def __init__(self):
        super().__init__()
        self.text_tower = self.TextTower()
        self.postprocess = self.PostProcess()
        self.batches = []
        self.encoded = []

    def encode_phrases(self, phrases):
        self.encoded.append(tuple(phrases))
        return torch.tensor([COLORS.get(p, (1, 1, 1)) for p in phrases], dtype=torch.float32)

    def forward(self, samples):
        self.batches.append([tuple(sample["image"].shape[1:]) for sample in samples])
        return [self.detect(**sample) for sample in samples]

    def detect(self, image, height, width, vocabulary, label_of_row):
        found = []
        for name, color in enumerate(vocabulary * 255):
            ys, xs = (image - color[:, None, None]).abs().sum(0).lt(30).nonzero(as_tuple=True)
            score = 1 / (1 + name)
            if len(ys) and score >= self.postprocess.score_threshold:
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                found.append(([float(x) for x in box], score, name))
        found = found[: self.postprocess.max_detections]
        instances = Instances(
            tuple(image.shape[1:]),
            pred_boxes=Boxes(torch.tensor([f[0] for f in found]).reshape(-1, 4)),
            scores=torch.tensor([f[1] for f in found]),
            pred_classes=torch.tensor([f[2] for f in found], dtype=torch.int64),
        )
        return {"instances": detector_postprocess(instances, height, width)}


def picture(height=60, width=80, **boxes):
    """White, with rectangles: colour=(x1, y1, x2, y2)."""
    image = np.full((height, width, 3), 255, np.uint8)
    for color, (x1, y1, x2, y2) in boxes.items():
        image[y1:y2, x1:x2] = COLORS[color]
    return image


@pytest.fixture
def colors():
    settings = InferenceSettings(min_size=120, max_size=200, score_threshold=0.1, batch_size=4)
    return OpenVocabularyPredictor.from_model(ColorModel(), settings)


@pytest.fixture(scope="module")
def nano(nano_folder):
    return OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")


def equal(one, other):
    return (
        one.image_size == other.image_size
        and one.labels == other.labels
        and torch.allclose(one.scores, other.scores, atol=1e-6)
        and torch.allclose(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3)
    )


def identical(one, other):
    return (
        one.labels == other.labels
        and torch.equal(one.scores, other.scores)
        and torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    )


def test_finds_what_is_named_where_it_is(colors):
    image = picture(red=(10, 20, 30, 50), blue=(40, 5, 70, 25))
    colors.set_vocabulary(["blue", "lime", "red"])
    instances = colors(image)
    assert instances.image_size == (60, 80)
    assert instances.labels == ["blue", "red"]
    assert instances.pred_classes.tolist() == [0, 2]
    np.testing.assert_allclose(
        instances.pred_boxes.tensor, [[40, 5, 70, 25], [10, 20, 30, 50]], atol=1
    )
    assert instances.scores.tolist() == pytest.approx([1, 1 / 3])


def test_every_kind_of_image(colors, tmp_path):
    image = picture(red=(10, 20, 30, 50))
    Image.fromarray(image).save(tmp_path / "x.png")
    colors.set_vocabulary("red, lime")
    expected = colors(image)
    for source in [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        (tmp_path / "x.png").read_bytes(),
        Image.fromarray(image),
        torch.from_numpy(image).permute(2, 0, 1),
    ]:
        instances = colors(source)
        assert isinstance(instances, Instances)
        assert equal(instances, expected)


def test_exif_boxes_are_those_of_the_upright_picture(colors, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture is turned a quarter to the left
    upright = picture(height=80, width=60, red=(5, 10, 25, 30))
    Image.fromarray(np.rot90(upright)).save(tmp_path / "x.png", exif=exif)
    colors.set_vocabulary(["red"])
    instances = colors(tmp_path / "x.png")
    assert instances.image_size == (80, 60)
    np.testing.assert_allclose(instances.pred_boxes.tensor, [[5, 10, 25, 30]], atol=1)


def test_lists_of_mixed_sizes_keep_their_order(colors):
    images = [
        picture(60, 80, red=(0, 0, 20, 20)),
        picture(80, 60, blue=(0, 0, 20, 20)),
        picture(60, 80),
        picture(60, 80, lime=(0, 0, 20, 20), red=(30, 30, 50, 50)),
        picture(120, 160, blue=(0, 0, 20, 20)),
    ]
    colors.set_vocabulary(["red", "lime", "blue"])
    results = colors(images)
    assert [r.labels for r in results] == [["red"], ["blue"], [], ["red", "lime"], ["blue"]]
    assert [r.image_size for r in results] == [image.shape[:2] for image in images]
    wide, high = (120, 160), (160, 120)
    assert colors.model.batches == [[wide, high, wide, wide], [wide]]  # four at a time
    assert [r.labels for r in colors(tuple(images))] == [r.labels for r in results]
    assert colors([]) == []


def test_an_iterable_is_read_as_its_results_are_asked_for(colors):
    read = 0

    def frames():
        nonlocal read
        while True:
            read += 1
            yield picture(red=(0, 0, 20, 20))

    colors.set_vocabulary(["red"])
    results = colors(frames())
    assert read == 0
    for _ in range(5):
        assert next(results).labels == ["red"]
    assert read == 8


def test_images_are_let_go_when_they_are_done(colors):
    alive = []

    def frames():
        for _ in range(20):
            image = picture(red=(0, 0, 20, 20))
            alive.append(weakref.ref(image))
            yield image

    colors.set_vocabulary(["red"])
    most = 0
    for _ in colors(frames()):
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 20
    assert most <= colors.settings.batch_size


def test_a_video(colors, tmp_path):
    path = write(
        tmp_path / "clip.mp4", [picture(64, 96, red=(8 * i, 8, 8 * i + 32, 40)) for i in range(6)]
    )
    colors.set_vocabulary(["blue", "red"])
    for source in (path, str(path), Video(path)):
        results = colors(source)
        assert not isinstance(results, list)
        for i, instances in enumerate(results):
            assert instances.image_size == (64, 96)
            assert instances.labels == ["red"]
            box = [8 * i, 8, 8 * i + 32, 40]
            np.testing.assert_allclose(instances.pred_boxes.tensor, [box], atol=2)
        assert i == 5
    with pytest.raises(UserError, match=r"clip\.mp4: this is a video"):
        colors([path])
    with pytest.raises(UserError, match=r"nowhere\.mp4: this video does not exist"):
        colors("nowhere.mp4")


def test_a_vocabulary_for_one_call_or_for_each_image(colors):
    image = picture(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    colors.set_vocabulary(["red"])
    assert colors(image, vocabulary=["lime", "blue"]).labels == ["blue"]
    results = colors([image] * 3, vocabularies=[["blue"], "lime", Vocabulary.from_text("red,blue")])
    assert [r.labels for r in results] == [["blue"], [], ["red", "blue"]]
    assert colors(image).labels == ["red"]
    for wrong in ([["red"]], [["red"]] * 3):
        with pytest.raises(UserError, match="as many vocabularies as images"):
            colors([image] * 2, vocabularies=wrong)
        with pytest.raises(UserError, match="as many vocabularies as images"):
            list(colors(iter([image] * 2), vocabularies=iter(wrong)))
    with pytest.raises(UserError, match="a list with one for each image"):
        colors([image] * 3, vocabularies="red")
    with pytest.raises(UserError, match="not both"):
        colors(image, vocabulary=["red"], vocabularies=[["red"]])


def test_equal_vocabularies_are_encoded_once(colors, tmp_path):
    image = picture(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    (tmp_path / "names.txt").write_text("blue")
    encoded = colors.encode(["red"])
    ready = [encoded, encoded, tmp_path / "names.txt", tmp_path / "names.txt"]
    names = [["red"], ("red",), iter(["red"]), "blue, lime", "blue, lime", [["red", "scarlet"]]]
    colors.model.encoded.clear()
    results = colors([image] * 10, vocabularies=[*ready, *names])
    labels = ["red"] * 2 + ["blue"] * 2 + ["red"] * 3 + ["blue"] * 2  # and nothing is so mixed
    assert [label for r in results for label in r.labels] == labels
    texts = [tuple(text for text in group if text != PROBE) for group in colors.model.encoded]
    assert [group for group in texts if group] == [
        ("blue",),
        ("red",),
        ("blue", "lime"),
        ("red", "scarlet"),
    ]


def test_vocabularies_of_equal_names_keep_their_own_embeddings(colors):
    image = picture(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    names = Vocabulary.from_names(["it"])
    probe = colors.model.encode_phrases([PROBE])
    ready = []
    for color in ("red", "blue"):
        rows = {"it": colors.model.encode_phrases([color])}
        ready.append(names.encode(lambda p, r=rows: torch.cat([r.get(x, probe) for x in p])))
    red, blue = colors([image] * 2, vocabularies=ready)
    np.testing.assert_allclose(red.pred_boxes.tensor, [[0, 0, 20, 20]], atol=1)
    np.testing.assert_allclose(blue.pred_boxes.tensor, [[30, 30, 50, 50]], atol=1)


def test_an_endless_stream_with_vocabularies(colors):
    image = picture(red=(0, 0, 20, 20))
    names = (["red", f"thing {i}"] for i in itertools.count())
    results = colors(itertools.repeat(image), vocabularies=names)
    for _ in range(100):
        assert next(results).labels == ["red"]
    assert len(colors.model.batches) == 25


def test_vocabularies_from_files(colors, tmp_path):
    image = picture(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    (tmp_path / "names.txt").write_text("lime\nblue\n")
    saved = tmp_path / "v.safetensors"
    colors.encode(["blue", "red"]).save(saved)
    for source, labels in [(tmp_path / "names.txt", ["blue"]), (saved, ["blue", "red"])]:
        for vocabulary in (source, str(source)):
            colors.set_vocabulary(vocabulary)
            assert colors(image).labels == labels
    colors.model.text_tower = None  # embeddings that are ready need none
    colors.set_vocabulary(saved)
    assert colors(image).labels == ["blue", "red"]


def test_a_vocabulary_of_another_encoder_is_refused(colors, tmp_path):
    path = tmp_path / "v.safetensors"
    vocabulary = Vocabulary.from_names(["red"])
    vocabulary.encode(colors.model.encode_phrases, "another").save(path)
    with pytest.raises(UserError, match="'another' and the model has 'colours'"):
        colors.set_vocabulary(path)
    with pytest.raises(UserError, match="other weights"):
        colors.set_vocabulary(vocabulary.encode(lambda p: torch.eye(3)[: len(p)], "colours"))


def test_without_config_it_is_the_default_model(nano_folder, monkeypatch):
    monkeypatch.setenv("DETCLIP2_MODEL", str(nano_folder))
    predictor = OpenVocabularyPredictor(device="cpu", score_threshold=0.25)
    assert predictor.settings.min_size == 96
    assert predictor.selection.score_threshold == 0.25
    with pytest.raises(UserError, match="give the config"):
        OpenVocabularyPredictor(weights=nano_folder / "model.safetensors")


def test_without_vocabulary(colors):
    with pytest.raises(UserError, match="call set_vocabulary"):
        colors(picture())


@pytest.mark.parametrize("images", [None, 3, [None], [picture()[:0]], "missing.png", [b""]])
def test_images_that_cannot_be_read(colors, images):
    colors.set_vocabulary(["red"])
    with pytest.raises(UserError):
        colors(images)


def test_settings_of_a_call_do_not_outlive_it(colors):
    image = picture(red=(0, 0, 20, 20), blue=(30, 30, 50, 50), lime=(60, 0, 70, 10))
    colors.set_vocabulary(["red", "blue", "lime"])
    assert len(colors(image)) == 3
    assert len(colors(image, score_threshold=0.4)) == 2
    assert colors(image, max_detections=1).labels == ["red"]
    assert len(colors(image)) == 3
    assert colors.model.postprocess.score_threshold == 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"score_threshold": -0.1},
        {"score_threshold": math.nan},
        {"nms_threshold": 1.1},
        {"max_detections": 0},
    ],
)
def test_settings_out_of_range(colors, settings):
    colors.set_vocabulary(["red"])
    with pytest.raises(UserError, match=next(iter(settings))):
        colors(picture(), **settings)


def test_threads_share_a_predictor(colors):
    images = {name: picture(**{name: (10, 10, 40, 40)}) for name in COLORS}
    failures = Counter()

    def work(name):
        for _ in range(20):
            other = [color for color in COLORS if color != name]
            if colors(images[name], vocabulary=[name]).labels != [name]:
                failures[name] += 1
            if colors(images[name], vocabulary=[*other, name], score_threshold=0.9).labels:
                failures[name] += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in COLORS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_settings_of_the_constructor_and_of_the_config(nano_folder, nano_config):
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


def test_the_same_again_is_the_same_to_the_last_bit(nano, nano_folder):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    nano.set_vocabulary("cat, dog")
    another = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    another.set_vocabulary("cat, dog")
    expected = nano(image)
    for again in (nano(image), nano([image])[0], another(image)):
        assert identical(again, expected)


def test_threads_give_what_one_gives(nano):
    """Two threads, each with pictures, names and settings of its own, and one predictor."""
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
        ({"model": {"_target_": "detclip2.modeling.detclip.DetCLIPv3"}}, "cannot be imported"),
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


def test_device_that_is_not_there(nano_config):
    for device in ("toaster", "cuda:99"):
        with pytest.raises(UserError, match=device):
            OpenVocabularyPredictor(nano_config, device=device)

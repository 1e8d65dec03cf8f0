"""Rows from example boxes: the projector is linear discriminant analysis, and rows find things."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from safetensors.torch import save_file

from detclip2.config import InferenceSettings
from detclip2.inference import examples
from detclip2.inference.examples import ExampleImage, ExampleProjector, regions_of, with_rows
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers.tiny_detector import config

D = 16


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    model = instantiate(config())
    return OpenVocabularyPredictor.from_model(model, InferenceSettings(64, 64))


@pytest.fixture
def drawn(monkeypatch):
    """Regions of categories with one covariance, in place of those of a model."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(D, D))
    means = {f"thing {i}": rng.normal(size=D) + 3 for i in range(6)}
    pairs = [
        (label, torch.tensor(rng.normal(size=(40, D)) @ shape * 0.2 + mean).float())
        for label, mean in means.items()
        for _ in range(3)
    ]
    monkeypatch.setattr(examples, "regions_of", lambda predictor, one: [pairs[one]])
    return pairs


def test_a_fit_is_that_of_numpy(predictor, drawn, monkeypatch):
    monkeypatch.setattr(examples, "RIDGE", 0.0)
    projector = ExampleProjector.fit(predictor, range(len(drawn)))
    of_label = {}
    for label, regions in drawn:
        of_label.setdefault(label, []).append(regions.double().numpy())
    groups = [np.concatenate(found) for found in of_label.values()]
    within = np.concatenate([group - group.mean(0) for group in groups])
    covariance = np.cov(within.T, bias=True)
    np.testing.assert_allclose(projector.matrix.numpy() @ covariance, np.eye(D), atol=1e-4)
    np.testing.assert_allclose(projector.center, np.concatenate(groups).mean(0), atol=1e-5)
    regions = torch.tensor(groups[2]).float()
    row = np.linalg.solve(covariance, groups[2].mean(0) - np.concatenate(groups).mean(0))
    np.testing.assert_allclose(projector(regions), row / np.linalg.norm(row), atol=1e-4)


def test_too_little_to_fit(predictor, drawn):
    with pytest.raises(UserError, match="40 regions of 1 categories are too few"):
        ExampleProjector.fit(predictor, [0])
    with pytest.raises(UserError, match="0 regions of 0 categories"):
        ExampleProjector.fit(predictor, [])


def boxes_of(predictor, image):
    """The boxes that the model sees, in px of the image."""
    sample = {"image": predictor.resized(image)}
    with torch.no_grad():
        outputs = predictor.model.encode_images(predictor.model.preprocess_image([sample]))
    height, width = outputs.image_sizes[0]
    scale = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
    return outputs.regions[0], outputs.boxes[0] * scale


def test_the_regions_of_a_box_are_those_whose_boxes_overlap(predictor):
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    regions, boxes = boxes_of(predictor, image)
    given = boxes[[5, 40]]
    found = regions_of(predictor, ExampleImage(image, given, ["a", "b"]))
    assert [label for label, _ in found] == ["a", "b"]
    for (_, of_box), (x1, y1, x2, y2) in zip(found, given.tolist(), strict=True):
        expected = []
        for region, (a1, b1, a2, b2) in zip(regions, boxes.tolist(), strict=True):
            inner = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner
            if inner / union >= 0.5:
                expected.append(region)
        assert len(expected) >= 1
        torch.testing.assert_close(of_box, torch.stack(expected))


def test_boxes_in_which_the_model_sees_nothing(predictor):
    image = np.zeros((96, 128, 3), np.uint8)
    sliver, outside = torch.tensor([[0.0, 0, 128, 0.5]]), torch.tensor([[500.0, 500, 600, 600]])
    projector = ExampleProjector(torch.eye(D), torch.zeros(D), "")
    for boxes in (sliver, outside):
        one = ExampleImage(image, boxes, ["logo"])
        assert regions_of(predictor, one) == []
        with pytest.raises(UserError, match="sees no object in the example boxes of 'logo'"):
            projector.rows(predictor, [one])
    _, all_boxes = boxes_of(predictor, image)
    both = ExampleImage(image, torch.cat([outside, all_boxes[40:41]]), ["logo", "logo"])
    rows, used = projector.rows(predictor, [both])
    assert used == {"logo": 1}
    assert rows["logo"].norm() == pytest.approx(1)
    with pytest.raises(UserError, match="there is no example"):
        projector.rows(predictor, [])
    broken = ExampleImage(b"no image", sliver, ["logo"])
    with pytest.raises(UserError, match="not an image"):
        projector.rows(predictor, [broken])


def test_a_file_is_read_back(predictor, tmp_path):
    projector = ExampleProjector(torch.randn(D, D), torch.randn(D), "fingerprint")
    projector.save(tmp_path / "p.safetensors")
    again = ExampleProjector.load(tmp_path / "p.safetensors")
    assert torch.equal(again.matrix, projector.matrix)
    assert torch.equal(again.center, projector.center)
    assert again.model == "fingerprint"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"matrix": torch.eye(3), "center": torch.zeros(3)}, {}, "is no projector"),
        ({"matrix": torch.eye(3)}, {"format": examples.FORMAT}, "damaged"),
        (
            {"matrix": torch.eye(3), "center": torch.zeros(4)},
            {"format": examples.FORMAT, "model": ""},
            "no square matrix",
        ),
        (
            {"matrix": torch.full((3, 3), torch.nan), "center": torch.zeros(3)},
            {"format": examples.FORMAT, "model": ""},
            "no square matrix",
        ),
    ],
)
def test_damaged_files(tensors, metadata, message, tmp_path):
    save_file(tensors, tmp_path / "p.safetensors", metadata)
    with pytest.raises(UserError, match=message):
        ExampleProjector.load(tmp_path / "p.safetensors")
    (tmp_path / "q.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match="damaged"):
        ExampleProjector.load(tmp_path / "q.safetensors")


def encoded(labels, synonyms="mean"):
    rng = torch.Generator().manual_seed(0)

    def encode(phrases):
        return torch.randn(len(phrases), D, generator=rng)

    return Vocabulary.from_names(labels, synonyms=synonyms).encode(encode, "tower")


@pytest.mark.parametrize("synonyms", ["mean", "max"])
def test_a_vocabulary_with_rows_of_examples(synonyms, tmp_path):
    text = encoded([["truck", "lorry"], "cat", "logo"], synonyms).with_thresholds({"cat": 0.3})
    row = torch.nn.functional.normalize(torch.randn(D), dim=0)
    mixed = with_rows(text, {"truck": row})
    mixed.save(tmp_path / "v.safetensors")
    again = Vocabulary.load(tmp_path / "v.safetensors")
    assert again == mixed
    assert again.prompts == (((),), (("cat",),), (("logo",),))
    assert torch.equal(again.embeddings, torch.cat([row[None], text.embeddings[-2:]]))
    assert again.of_examples == ("truck",)
    assert again.label_of_row is None
    assert again.thresholds is None
    assert again.definitions == ("", "", "")
    assert "1 by example boxes" in again.description
    assert "synonym" not in again.description
    with pytest.raises(UserError, match="'truck' was given by example boxes"):
        again.encode(lambda phrases: torch.randn(len(phrases), D))

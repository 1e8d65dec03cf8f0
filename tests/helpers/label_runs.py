"""Small runs of `detclip2 label` with the detector of colours, whose answers are known."""

from pathlib import Path

import numpy as np
from PIL import Image

from detclip2.config import InferenceSettings
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.labelling.detector import Detector, DetectorSettings
from detclip2.labelling.journal import Journals
from detclip2.labelling.plan import prepare
from detclip2.modeling.thresholds import DetectionThresholds
from tests.helpers.color_model import ColorModel, draw_image

LABELS = ("red", "lime", "blue")
SIZE = (60, 80)


def write_images(folder, count=7, bad=(3,)):
    """Images 0.png, 1.png, ... with a red and a blue box at known places; `bad` are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:02d}.png"
        if i in bad:
            path.write_text("no image")
        else:
            Image.fromarray(draw_image(*SIZE, red=(i, 5, i + 9, 20), blue=(30, 30, 50, 41))).save(
                path
            )
    return folder


def true_boxes(i):
    """Label's number -> box XYXY px of image i."""
    return {0: [i, 5, i + 9, 20], 2: [30, 30, 50, 41]}


def color_predictor(batch_size=2):
    """A predictor of colours that does not resize images of `SIZE`."""
    thresholds = DetectionThresholds(0.1, 0.6, False, 100)
    settings = InferenceSettings(60, 80, batch_size=batch_size, thresholds=thresholds)
    return OpenVocabularyPredictor.from_model(ColorModel(), settings)


def settings(labels=LABELS, **more):
    """Of a detector of colours."""
    vocabulary = Vocabulary.from_names(list(labels))
    return DetectorSettings("", "", False, vocabulary, {"score_threshold": 0.1}, readers=2, **more)


def make_detector(**more):
    """A detector of colours."""
    return Detector(color_predictor(), settings(**more))


def plan(labels=LABELS):
    """The fields of a plan but those of the images."""
    return {"labels": labels, "vocabulary": "v", "model": "m", "settings": {"score_threshold": 0.1}}


def begin(output, folder, labels=LABELS):
    """Begin a run on the files of a folder."""
    from detclip2.data.io.image_item import ImageItem

    paths = sorted(Path(folder).iterdir())
    items = [ImageItem(path.name, str(path)) for path in paths]
    return prepare(output, items, plan(labels))


def found(output, total):
    """The entries of a run, without what is measured in floats of another kind."""
    return [*Journals(output, total).entries()]


def check(entries, count=7, bad=(3,)):
    """Check all entries of `write_images`."""
    assert [one["image"] for one in entries] == [*range(count)]
    for i, one in enumerate(entries):
        assert one["file_name"] == f"{i:02d}.png"
        if i in bad:
            assert one["skipped"] == "image-unreadable"
            continue
        assert (one["height"], one["width"]) == SIZE
        assert one["classes"] == [0, 2]
        np.testing.assert_array_equal(one["boxes"], [*true_boxes(i).values()])
        np.testing.assert_allclose(one["scores"], [1, 1 / 3], rtol=1e-7)

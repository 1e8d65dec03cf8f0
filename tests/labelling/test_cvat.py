"""The function of CVAT's automatic annotation, called as CVAT's driver calls it."""

import pytest
from PIL import Image

from detclip2.inference.tiles import TiledPredictor
from detclip2.labelling.cvat import DetectionFunction
from detclip2.utils.errors import UserError
from tests.helpers.color_model import draw_image
from tests.helpers.label_runs import color_predictor

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="the extra cvat is not installed")
cvat = pytest.importorskip("detclip2.labelling.cvat")


class Context:
    frame_name = "x.png"
    conv_mask_to_poly = False

    def __init__(self, conf_threshold=None):
        self.conf_threshold = conf_threshold


def test_labels_and_rectangles():
    predictor = color_predictor()
    predictor.set_vocabulary(["red", "lime", "blue"])
    function = cvat.DetectionFunction(predictor)
    assert [(label.name, label.id) for label in function.spec.labels] == [
        ("red", 0),
        ("lime", 1),
        ("blue", 2),
    ]
    image = Image.fromarray(draw_image(60, 80, red=(3, 5, 12, 20), blue=(30, 30, 50, 41)))
    shapes = function.detect(Context(), image)
    assert [(shape.label_id, shape.points) for shape in shapes] == [
        (0, [3, 5, 12, 20]),
        (2, [30, 30, 50, 41]),
    ]
    assert all(shape.type.value == "rectangle" for shape in shapes)
    [only] = function.detect(Context(0.5), image)
    assert only.label_id == 0


def test_the_function_of_a_model_folder(nano_folder):
    function = cvat.create("cat, traffic light", model=str(nano_folder), device="cpu", tile=64)
    assert [label.name for label in function.spec.labels] == ["cat", "traffic light"]
    assert isinstance(function.detect(Context(0.0), Image.new("RGB", (80, 60))), list)
    with pytest.raises(UserError, match="one of them"):
        cvat.create("cat", "coco")
    with pytest.raises(UserError, match="one of them"):
        cvat.create()


def test_tiles_of_cvat():
    pytest.importorskip("cvat_sdk.auto_annotation")
    predictor = color_predictor()
    predictor.set_vocabulary(["red"])
    assert isinstance(DetectionFunction(predictor, 64)._detect, TiledPredictor)

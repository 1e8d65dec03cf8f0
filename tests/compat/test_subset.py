"""Names missing from the stand-in are reported in one line."""

import importlib
import pickle

import detectron2
import pytest
from detectron2.utils import comm

pytestmark = pytest.mark.skipif(
    "subset" not in detectron2.__version__, reason="the real Detectron2 is complete"
)

SENTENCE = r"^{} is not part of detectron2 0\.6\+subset.*pip install git\+https://github\.com/\S+$"


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("from detectron2.structures import PolygonMasks", "PolygonMasks"),
        ("from detectron2.structures import Boxes, RotatedBoxes", "RotatedBoxes"),
        ("from detectron2.structures.boxes import pairwise_ioa", "pairwise_ioa"),
        ("from detectron2.utils.comm import nothing", "nothing"),
        ("from detectron2 import model_zoo", "model_zoo"),
        ("import detectron2.model_zoo.configs", "model_zoo"),
        ("from detectron2.utils.visualizer import Visualizer", "visualizer"),
    ],
)
def test_imports(statement, name):
    with pytest.raises(ImportError, match=SENTENCE.format(name)):
        exec(statement)


def test_attributes():
    with pytest.raises(AttributeError, match=SENTENCE.format("PolygonMasks")):
        importlib.import_module("detectron2.structures").PolygonMasks  # noqa: B018
    assert not hasattr(comm, "nothing")
    assert getattr(comm, "nothing", 3) == 3


def test_names_that_exist_are_imported():
    from detectron2.modeling import backbone

    assert backbone.__name__ == "detectron2.modeling.backbone"
    assert importlib.import_module("detectron2.structures.boxes").__spec__.origin.endswith(".py")


def test_imports_of_other_packages_are_not_affected():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_package'$"):
        importlib.import_module("no_such_package")


@pytest.mark.parametrize("suffix", [".pkl", ".pyth"])
def test_pickles_are_refused(tmp_path, suffix):
    from detectron2.checkpoint import DetectionCheckpointer
    from torch import nn

    file = tmp_path / f"weights{suffix}"
    file.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(str(file))

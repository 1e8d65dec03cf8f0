"""The exported graph gives the numbers of the model, at every size and for any number of names."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from timm.layers import Conv2dSame
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from detclip2.cli import main
from detclip2.config import InferenceSettings
from detclip2.export.graph import OPSET, OUTPUTS, DetectorGraph, _even_padding, export_onnx
from detclip2.export.info import GraphInfo
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.postprocess import TopKPerPhrase
from detclip2.utils.errors import UserError
from tests.helpers.exported import image_of, run_graph
from tests.helpers.tiny_detector import MODELS


def assert_equal(outputs, model, image, vocabulary):
    """Logits within 1e-4, boxes within a hundredth of a pixel."""
    with torch.no_grad():
        expected = DetectorGraph(model)(torch.from_numpy(image), torch.from_numpy(vocabulary))
    for name, value, tolerance in zip(OUTPUTS, expected, (1e-4, 1e-4, 1e-2), strict=True):
        assert outputs[name].shape == value.shape, name
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=tolerance, err_msg=name)


def vocabulary_of(rows, width):
    return np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 7, 1203])
def test_nano_takes_any_number_of_names(nano_graph, nano_predictor, rows):
    session = onnxruntime.InferenceSession(str(nano_graph))
    image, vocabulary = image_of(96, 128), vocabulary_of(rows, 128)
    outputs = run_graph(session, image, vocabulary)
    assert outputs["logits"].shape[-1] == rows
    assert_equal(outputs, nano_predictor.model, image, vocabulary)


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (320, 64)])
def test_one_graph_for_all_sizes(free_graph, tiny_predictor, size):
    session = onnxruntime.InferenceSession(str(free_graph))
    image = image_of(*size)
    vocabulary = tiny_predictor.vocabulary.embeddings.numpy()
    assert_equal(run_graph(session, image), tiny_predictor.model, image, vocabulary)


def test_a_graph_is_standard_and_says_nothing_of_this_machine(nano_graph, free_graph):
    for path in (nano_graph, free_graph):
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]
        assert {node.domain for node in graph.graph.node} == {""}
        assert not graph.functions
        assert b".py" not in path.read_bytes()


def test_inputs_and_outputs_have_the_documented_names(nano_graph, free_graph):
    def described(path):
        graph = onnx.load(path).graph
        return {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in (*graph.input, *graph.output)
        }

    assert described(nano_graph) == {
        "image": [1, 3, 96, 128],
        "vocabulary": ["rows", 128],
        "logits": [1, 257, "rows"],  # 12 x 16, 6 x 8, 3 x 4, 2 x 2 and 1 x 1 places
        "centerness": [1, 257],
        "boxes": [1, 257, 4],
    }
    assert described(free_graph) == {
        "image": [1, 3, "height", "width"],
        "logits": [1, "anchors", 4],
        "centerness": [1, "anchors"],
        "boxes": [1, "anchors", 4],
    }


def test_metadata(nano_graph, nano_predictor, free_graph, tiny_predictor):
    def read(path):
        properties = {p.key: p.value for p in onnx.load(path).metadata_props}
        return GraphInfo.from_properties(properties, "x")

    encoded = nano_predictor.encode(["anything"])
    of_nano, of_tiny = read(nano_graph), read(free_graph)
    assert of_nano.encoder == "detclip2-nano"
    np.testing.assert_allclose(of_nano.probe, encoded.probe, atol=1e-6)
    assert (of_nano.size, of_tiny.size) == ((96, 128), None)
    assert (of_tiny.min_size, of_tiny.max_size, of_tiny.divisor) == (96, 160, 32)
    assert of_nano.padding == pytest.approx((123.675, 116.28, 103.53))
    assert of_nano.labels is None
    assert of_tiny.labels == ("red apple", "пёс", "bat")
    assert of_tiny.rows == (1, 1, 2)
    assert of_tiny.thresholds == pytest.approx((0, 0.12, 0))
    # The threshold of the config, and what it does not have from the model's own postprocess.
    assert (of_nano.score_threshold, of_tiny.score_threshold) == (0.0, 0.05)
    assert (of_nano.nms_threshold, of_nano.max_candidates) == (0.6, 3000)


def test_half_precision(export_nano, nano_graph):
    half = export_nano("half.onnx", "--precision", "fp16")
    assert half.stat().st_size < 0.65 * nano_graph.stat().st_size
    onnx.checker.check_model(onnx.load(half), full_check=True)
    outputs, expected = outputs_of(half), outputs_of(nano_graph)
    for name, tolerance in (("logits", 0.05), ("centerness", 0.02), ("boxes", 1)):
        assert outputs[name].dtype == np.float32
        assert 0 < np.abs(outputs[name] - expected[name]).max() < tolerance, name


def test_eight_bits(export_nano, nano_graph, tmp_path):
    for number in range(2):
        pixels = image_of(96, 128)[0].transpose(1, 2, 0).astype(np.uint8)
        Image.fromarray(np.roll(pixels, number)).save(tmp_path / f"{number}.png")
    int8 = export_nano("int8.onnx", "--precision", "int8", "--calibration", tmp_path)
    assert int8.stat().st_size < 0.4 * nano_graph.stat().st_size
    graph = onnx.load(int8)
    assert [node.op_type for node in graph.graph.node].count("QuantizeLinear") > 20
    assert {o.domain for o in graph.opset_import} == {""}
    outputs, expected = outputs_of(int8), outputs_of(nano_graph)
    for name in OUTPUTS:
        error = np.abs(outputs[name] - expected[name]).mean()
        assert 0 < error < 0.1 * expected[name].std(), name


def outputs_of(path):
    session = onnxruntime.InferenceSession(str(path))
    return run_graph(session, image_of(96, 128), vocabulary_of(5, 128))


@pytest.mark.slow
def test_swin_t_at_a_fixed_size():
    cfg = LazyConfig.load(str(MODELS)).swin_t
    cfg.text_tower = None
    # The head has tests of its own: fewer levels and convolutions are faster to export.
    cfg.head_in_features = ["p3", "p4", "p5"]
    cfg.head.update(num_levels=3, num_convs=1)
    cfg.anchor_generator.update(sizes=[[64], [128], [256]], strides=[8, 16, 32])
    torch.manual_seed(0)
    model = instantiate(cfg)
    torch.nn.init.constant_(model.align.log_scale, 2.0)
    predictor = OpenVocabularyPredictor.from_model(model, InferenceSettings(64, 96))
    with pytest.raises(UserError, match="within windows"):
        export_onnx(predictor)
    encoded = five_names(model.embed_dim)
    graph = export_onnx(predictor, encoded, (64, 96))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    image = image_of(64, 96)
    assert_equal(run_graph(session, image), model, image, encoded.embeddings.numpy())


def five_names(width):
    """An encoded vocabulary, for a model without text tower."""
    rows = torch.from_numpy(vocabulary_of(6, width))
    rows = torch.nn.functional.normalize(rows, dim=1)
    return Vocabulary.from_names(list("abcde")).encode(lambda texts: rows[: len(texts)])


def test_without_text_tower_only_an_encoded_vocabulary_can_be_folded(tiny_predictor):
    assert tiny_predictor.model.text_tower is None  # and yet there is a `free_graph`
    for vocabulary in (None, ["red apple"]):
        with pytest.raises(UserError, match="no text tower: give it a vocabulary that is encoded"):
            export_onnx(tiny_predictor, vocabulary)


@pytest.mark.parametrize("size", [(64, 100), (0, 64), (16, 16)])
def test_sizes_that_do_not_fit(tiny_predictor, size):
    with pytest.raises(UserError, match=r"multiples of 32; the next larger one is \d+x\d+"):
        export_onnx(tiny_predictor, tiny_predictor.vocabulary, size)


def test_a_model_that_the_exporter_cannot_follow(tiny_predictor, monkeypatch):
    def fail(*args, **kwargs):
        raise GuardOnDataDependentSymNode(None, "Could not guard\nand much more")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(UserError, match=r"free sizes \(Could not guard\): give a fixed one"):
        export_onnx(tiny_predictor, tiny_predictor.vocabulary)
    with pytest.raises(GuardOnDataDependentSymNode):
        export_onnx(tiny_predictor, tiny_predictor.vocabulary, (64, 64))


def test_models_that_have_no_such_graph(colors, tiny_model):
    with pytest.raises(UserError, match="a ColorModel cannot be exported: only a DetCLIPv2"):
        export_onnx(colors)
    tiny_model.postprocess = TopKPerPhrase()
    predictor = OpenVocabularyPredictor.from_model(tiny_model, InferenceSettings(96, 160))
    with pytest.raises(UserError, match="postprocess is TopKPerPhrase"):
        export_onnx(predictor)


def test_int8_needs_images(tiny_predictor):
    with pytest.raises(UserError, match="there are none"):
        export_onnx(tiny_predictor, tiny_predictor.vocabulary, precision="int8")


def test_a_missing_package_is_named(tiny_predictor, monkeypatch):
    monkeypatch.setattr("detclip2.export.graph.find_spec", lambda name: name != "onnxscript")
    with pytest.raises(UserError, match=r"needs the Python package onnxscript: pip install"):
        export_onnx(tiny_predictor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.xml"], "the name of a graph of onnx ends in .onnx"),
        (["x.onnx", "--format", "openvino"], "ends in .xml"),
        (["x.onnx", "--names", "cat"], "by --vocabulary folded"),
        (["x.onnx", "--vocabulary", "folded"], "needs the names"),
        (["x.onnx", "--precision", "int8"], "go together"),
        (["x.onnx", "--calibration", "."], "go together"),
        (["x.onnx", "--precision", "int8", "--calibration", "none"], "cannot be read"),
    ],
)
def test_mistakes_of_the_command(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--output", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_size_is_hxw_or_free(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--output", "x.onnx", "--size", "640"])
    assert "neither HxW, such as 800x1344, nor free" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (5, 1, 2), (1, 2, 1)]
)
def test_padding_of_tensorflow_without_a_remainder(kernel, stride, dilation):
    """In a graph it is that of sides that are multiples of the stride; afterwards as before."""
    conv = Conv2dSame(3, 4, kernel, stride, 0, dilation)
    net, x = nn.Sequential(conv), torch.randn(1, 3, 8, 12)
    expected, odd = net(x), net(x[..., :7, :])
    with _even_padding(net):
        torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x[..., :7, :]), odd)
    assert "forward" not in vars(conv)


@pytest.mark.slow
def test_the_default_model_at_free_sizes():
    """The first command of docs/export.md."""
    predictor = OpenVocabularyPredictor("photo_nano", device="cpu")
    proto = export_onnx(predictor, ["bus", "traffic light"])
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    vocabulary = predictor.encode(["bus", "traffic light"]).embeddings.numpy()
    divisor = predictor.model.backbone.size_divisibility
    for height, width in ((1, 2), (3, 2)):
        image = image_of(height * divisor, width * divisor)
        assert_equal(run_graph(session, image), predictor.model, image, vocabulary)

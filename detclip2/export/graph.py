"""A detector as an ONNX graph of standard operators."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from detectron2.structures import ImageList
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.data.io.image import ImageSource
from detclip2.export.info import GraphInfo
from detclip2.export.precision import Precision, to_half, to_int8
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import PROBE, Vocabulary
from detclip2.inference.vocabulary_source import VocabularySource
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.text.prompt_ensemble import mean_embeddings
from detclip2.utils.errors import UserError
from detclip2.utils.quiet import without_any_warning

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
"""GridSample is final since 20, and TensorRT, OpenVINO and ONNX Runtime read it. DeformConv, since
19, is not used: each tap is a GridSample instead, as in training on a CPU."""
OUTPUTS = ("logits", "centerness", "boxes")
_EXAMPLE = (5, 6)  # times the divisor; unequal, so that no exporter takes the sides for one


class DetectorGraph(nn.Module):
    """The part of a `DetCLIPv2` that becomes a graph; `GraphInfo` describes inputs and outputs.

    Args:
        model: in evaluation mode.
        embeddings: (R, D) of a vocabulary to fold in; None: the vocabulary is an input.
    """

    embeddings: Tensor | None

    def __init__(self, model: DetCLIPv2, embeddings: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("embeddings", embeddings)

    def forward(self, image: Tensor, vocabulary: Tensor | None = None) -> tuple[Tensor, ...]:
        """(1, 3, H, W) and (R, D) -> the tensors of `OUTPUTS`."""
        model = self.model
        normalised = (image - model.pixel_mean) / model.pixel_std
        height, width = image.shape[-2:]
        outputs = model.encode_images(ImageList(normalised, [(height, width)]))
        rows = self.embeddings if vocabulary is None else vocabulary
        assert rows is not None
        logits = model.align(outputs.regions, rows)
        return logits, outputs.centerness, outputs.boxes_at(0, slice(None))[None]


def export_onnx(
    predictor: OpenVocabularyPredictor,
    vocabulary: VocabularySource | None = None,
    size: tuple[int, int] | None = None,
    precision: Precision = "fp32",
    images: Iterable[ImageSource] = (),
) -> "ModelProto":
    """Export a predictor's model, with its settings, as a graph that `Runner` runs.

    Args:
        predictor: on the CPU.
        vocabulary: to fold in, of any kind that `OpenVocabularyPredictor.set_vocabulary` takes;
            None: the graph has the vocabulary as an input and detects any number of labels.
        size: height and width of the input, px; None: any multiples of `GraphInfo.divisor`.
        precision: "fp16" and "int8" are for the products of backbone and towers; the rest, inputs
            and outputs stay in float32.
        images: for "int8", some of the kind that will be seen, to take ranges of values on.

    Raises:
        UserError: the model is of another kind; it has no text tower and no encoded vocabulary is
            given; the size is not possible; there are no images for "int8"; the packages of the
            extra ``export`` are not installed.
    """
    model = predictor.model
    _check_packages()
    _check_model(model)
    _check_size(model, size)
    images = list(images)
    if precision == "int8" and not images:
        raise UserError("int8 takes the ranges of its values on images: there are none")
    encoded = None if vocabulary is None else predictor.encode(vocabulary)
    info = info_of(predictor, encoded, size)
    graph = DetectorGraph(model, None if encoded is None else encoded.embeddings).eval()
    proto = traced(graph, info)
    if precision == "fp16":
        proto = to_half(proto)
    elif precision == "int8":
        proto = to_int8(proto, info, images)
    describe(proto, info)
    return proto


def _check_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
    if missing:
        raise UserError(
            f"an export needs the Python package {missing[0]}: pip install 'detclip2[export]'"
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, DetCLIPv2):
        raise UserError(
            f"a {type(model).__name__} cannot be exported: only a DetCLIPv2 encodes images without "
            "their text, so that a graph can have the vocabulary as an input"
        )
    if type(model.postprocess) is not PostProcess:
        raise UserError(
            f"a model whose postprocess is {type(model.postprocess).__name__} cannot be exported: "
            "runners know that of PostProcess"
        )
    if model.device.type != "cpu":
        raise UserError(f"the model is on {model.device}: export it from the CPU")


def _check_size(model: DetCLIPv2, size: tuple[int, int] | None) -> None:
    divisor = model.backbone.size_divisibility
    if size is None:
        # timm's name for the sides of windows.
        if any(hasattr(module, "window_size") for module in model.backbone.modules()):
            raise UserError(
                "this backbone attends within windows (Swin), whose padding, shifts and masks are "
                "other operations at each size, so that no one graph covers all: give a fixed "
                "size, such as 800x1344, and export once for each size that you need"
            )
        return
    if min(size) < 1 or any(length % divisor for length in size):
        nearest = "x".join(str(max(1, -(-length // divisor)) * divisor) for length in size)
        raise UserError(
            f"the size {size[0]}x{size[1]} does not fit the model: height and width are multiples "
            f"of {divisor}; the next larger one is {nearest}"
        )


def info_of(
    predictor: OpenVocabularyPredictor, encoded: Vocabulary | None, size: tuple[int, int] | None
) -> GraphInfo:
    """The metadata of a graph; the arguments are those of `export_onnx`."""
    model, settings = predictor.model, predictor.settings
    if encoded is None:
        model.text_encoder  # noqa: B018  raises the sentence for a model without one
        [probe] = mean_embeddings([(PROBE,)], model.encode_phrases)
        labels: dict[str, Any] = {}
        encoder = model.text_identity
    else:
        probe, encoder = encoded.probe, encoded.encoder
        labels = {
            "labels": encoded.labels,
            "rows": tuple(map(len, encoded.prompts)),
            "thresholds": encoded.thresholds,
        }
        if encoded.calibration is not None:
            maps = tuple(map(tuple, encoded.calibration.maps.tolist()))
            labels |= {"maps": maps, "map_of_label": encoded.calibration.map_of_label}
    return GraphInfo(
        encoder=encoder or "",
        probe=tuple(probe.tolist()),
        size=size,
        min_size=settings.min_size,
        max_size=settings.max_size,
        divisor=model.backbone.size_divisibility,
        padding=tuple(model.pixel_mean.flatten().tolist()),
        max_candidates=model.postprocess.max_candidates,
        **vars(model.postprocess.resolved(predictor.thresholds)),
        **labels,
    )


def traced(graph: DetectorGraph, info: GraphInfo) -> "ModelProto":
    """The graph as the exporters of PyTorch write it, with the scopes of its nodes."""
    divisor = info.divisor
    size = info.size or tuple(divisor * number for number in _EXAMPLE)
    inputs: list[Tensor] = [torch.zeros(1, 3, *size)]
    axes = {
        2: divisor * torch.export.Dim("h", max=256),
        3: divisor * torch.export.Dim("w", max=256),
    }
    shapes: dict[str, Any] = {"image": None if info.size else axes}
    if info.labels is None:
        inputs.append(torch.zeros(3, len(info.probe)))
        shapes["vocabulary"] = {0: torch.export.Dim("rows")}
    with torch.no_grad(), _plain_attention(graph), _even_padding(graph), without_any_warning():
        try:
            program = torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes, strict=False)
        # Of sizes that are not as free as was said, and of operations that depend on them.
        except (torch._dynamo.exc.UserError, RuntimeError) as error:
            if info.size is not None:
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"torch.export cannot follow this model at free sizes ({reason}): give a fixed one"
            ) from error
        exported = torch.onnx.export(
            program,
            opset_version=OPSET,
            input_names=list(shapes),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert exported is not None
    return exported.model_proto


def describe(proto: "ModelProto", info: GraphInfo) -> None:
    """Add the metadata, name dimensions as `GraphInfo` does, and drop the exporter's remarks."""
    from onnx.helper import set_model_props

    size = (None, None) if info.size else ("height", "width")
    rows, anchors = (None if info.labels else "rows"), (None if info.size else "anchors")
    names = {
        "image": (None, None, *size),
        "vocabulary": (rows, None),
        "logits": (None, anchors, rows),
        "centerness": (None, anchors),
        "boxes": (None, anchors, None),
    }
    for value in (*proto.graph.input, *proto.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        for dimension, name in zip(dimensions, names[value.name], strict=True):
            if name:
                dimension.dim_param = name  # instead of a formula
    del proto.graph.value_info[:]  # their formulas have the former names
    for node in proto.graph.node:  # lines of code, with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for described in (proto.graph, *proto.graph.input, *proto.graph.output):
        described.doc_string = ""
        del described.metadata_props[:]
    set_model_props(proto, info.properties())


@contextmanager
def _even_padding(graph: nn.Module) -> Iterator[None]:
    """Within the block, TensorFlow's padding (`Conv2dSame`) is that of sides without a remainder.

    It depends on the side modulo the stride, which is 0: a side is a multiple of the divisor. In
    symbols, as of a free size, the exporter does not come to an end with it.
    """

    def forward(module: Conv2dSame, x: Tensor) -> Tensor:
        padding: list[int] = []
        for k, s, d in zip(module.kernel_size, module.stride, module.dilation, strict=True):
            both = max((k - 1) * d + 1 - s, 0)
            padding = [both // 2, both - both // 2, *padding]  # of the last side first
        return module._conv_forward(F.pad(x, padding), module.weight, module.bias)

    padded = [m for m in graph.modules() if isinstance(m, Conv2dSame)]
    for module in padded:
        module.forward = partial(forward, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in padded:
            del module.forward


@contextmanager
def _plain_attention(graph: nn.Module) -> Iterator[None]:
    """Within the block, attention is two matrix products: ONNX has no fused one in this opset."""
    fused = [m for m in graph.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]

"""Graphs at half precision and in 8 bits, by ONNX Runtime's converters."""

import ast
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from detclip2.data.io.image import ImageSource, read_image
from detclip2.export.info import GraphInfo
from detclip2.export.runner import prepared
from detclip2.utils.quiet import without_any_warning

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

# As autocast: products at half precision, norms, softmax and coordinates in float32. An offset of
# a tap or the corner of a box would be rounded to a quarter of a pixel, or to a whole one.
_HALF_OPERATORS = {"Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "Gelu", "MaxPool", "AveragePool"}
_HALF_OPERATORS |= {"Reshape", "Transpose", "Slice", "Concat", "Split", "Squeeze", "Unsqueeze"}
_HALF_OPERATORS |= {"Pad", "Expand", "Gather"}
_HALF_PARTS = ("backbone", "head.box_tower", "head.class_tower", "head.region")
# The layers that give regions, boxes, centerness and offsets stay as they are.
_INT8_OPERATORS = ["Conv", "MatMul", "Gemm"]
_INT8_PARTS = ("backbone", "head.box_tower", "head.class_tower")


def to_half(graph: "ModelProto") -> "ModelProto":
    """The graph with products and weights of backbone and towers in float16.

    Inputs and outputs stay float32.

    Args:
        graph: of `detclip2.export.graph`, with the scopes of its nodes.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    others = [
        node.name
        for node in graph.graph.node
        if node.op_type not in _HALF_OPERATORS or not _is_in(node, _HALF_PARTS)
    ]
    half = convert_float_to_float16(
        graph, keep_io_types=True, op_block_list=[], node_block_list=others
    )
    _without_detours(half)
    OnnxModel.graph_topological_sort(half.graph)  # casts are at the end, where ONNX forbids them
    return half


def _without_detours(graph: "ModelProto") -> None:
    """Skip casts to float16 and back, which the converter puts between two float32 nodes.

    They would round the image, the vocabulary and all outputs.
    """
    from onnx import TensorProto

    def is_cast(node: "NodeProto", kind: int) -> bool:
        return node.op_type == "Cast" and any(
            a.name == "to" and a.i == kind for a in node.attribute
        )

    nodes = graph.graph.node
    source = {n.output[0]: n.input[0] for n in nodes if is_cast(n, TensorProto.FLOAT16)}
    back = [n for n in nodes if is_cast(n, TensorProto.FLOAT) and n.input[0] in source]
    straight = {node.output[0]: source[node.input[0]] for node in back}
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = straight.get(name, name)
    outputs = {value.name for value in graph.graph.output}
    for node in back:
        if node.output[0] in outputs:  # a name that has to stay
            node.input[0] = straight[node.output[0]]
        else:
            nodes.remove(node)
    used = {name for node in nodes for name in node.input}
    for node in [n for n in nodes if is_cast(n, TensorProto.FLOAT16) and n.output[0] not in used]:
        nodes.remove(node)


def to_int8(graph: "ModelProto", info: GraphInfo, images: Iterable[ImageSource]) -> "ModelProto":
    """The graph with products of backbone and towers in 8 bits (static, QDQ, weights by channel).

    Args:
        graph: of `detclip2.export.graph`, with the scopes of its nodes.
        info: its metadata.
        images: some of the kind that will be seen: the range of each activation is taken on them.

    Raises:
        UserError: an image cannot be read.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    own = onnx.ModelProto()  # the quantiser moves the weights of its argument into a file
    own.CopyFrom(graph)
    others = [node.name for node in graph.graph.node if not _is_in(node, _INT8_PARTS)]
    with tempfile.TemporaryDirectory() as folder, without_any_warning():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            own,
            str(path),
            _Reader(_calibration_inputs(images, info)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_INT8_OPERATORS,
            nodes_to_exclude=others,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(path)


def _calibration_inputs(
    images: Iterable[ImageSource], info: GraphInfo
) -> Iterator[dict[str, np.ndarray]]:
    for image in images:
        pixels, _ = prepared(read_image(image), info)
        # Nothing that is rounded depends on the vocabulary, so any will do.
        rows = {"vocabulary": np.array([info.probe], np.float32)} if info.labels is None else {}
        yield {"image": pixels, **rows}


class _Reader:
    """ONNX Runtime's ``CalibrationDataReader``: the next inputs, or None."""

    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        """See the class."""
        return next(self._inputs, None)


def _is_in(node: "NodeProto", parts: Sequence[str]) -> bool:
    """Whether a node comes from one of these parts of the model."""
    scopes = next(
        (p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]"
    )
    prefixes = tuple(f"model.{part}" for part in parts)
    return any(scope.startswith(prefixes) for scope in ast.literal_eval(scopes))

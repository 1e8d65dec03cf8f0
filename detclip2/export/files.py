"""Graph files: ONNX, and OpenVINO made from it."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detclip2.export.runner import MISSING_OPENVINO
from detclip2.utils.errors import UserError
from detclip2.utils.files import whole_file, write_whole

if TYPE_CHECKING:
    from onnx import ModelProto


def write_onnx(graph: "ModelProto", path: str | os.PathLike[str]) -> None:
    """Write an .onnx file, weights included, whole or not at all.

    Raises:
        UserError: the graph has more than 2 GiB, protobuf's limit, or the file cannot be written.
    """
    try:
        content = graph.SerializeToString()
        write_whole(Path(path), lambda file: file.write(content))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: the graph is too large for one file: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: the graph cannot be written here: {error}") from None


def write_openvino(graph: "ModelProto", path: str | os.PathLike[str], half: bool = False) -> None:
    """Write an .xml file of OpenVINO and its .bin with the weights.

    Args:
        graph: of `export_onnx`.
        path: path of the .xml.
        half: whether weights are stored in float16.

    Raises:
        UserError: OpenVINO, an optional dependency, is not installed; a file cannot be written.
    """
    try:
        import openvino
    except ModuleNotFoundError:
        raise UserError(f"{path}: {MISSING_OPENVINO}") from None
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "graph.onnx"
        write_onnx(graph, source)
        model = openvino.convert_model(source)
        for entry in graph.metadata_props:
            model.set_rt_info(entry.value, entry.key)
        openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=half)
        try:
            for part in (path.with_suffix(".bin"), path):  # the .xml last: it names a whole .bin
                with whole_file(part) as file:
                    file.write((Path(folder) / part.name).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: the graph cannot be written here: {error}") from None

"""Export to ONNX and OpenVINO, and a runner of these graphs that needs no PyTorch."""

import os
from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

# The official builds of ONNX Runtime send events to Microsoft and keep an identifier of the device
# in the home folder. It reads this variable when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Detections", "GraphInfo", "Runner", "export_onnx", "write_onnx", "write_openvino"]

if TYPE_CHECKING:
    from detclip2.export.files import write_onnx, write_openvino
    from detclip2.export.graph import export_onnx
    from detclip2.export.info import GraphInfo
    from detclip2.export.runner import Detections, Runner
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Detections": "runner",
            "GraphInfo": "info",
            "Runner": "runner",
            "export_onnx": "graph",
            "write_onnx": "files",
            "write_openvino": "files",
        },
    )

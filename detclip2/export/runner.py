"""Detection with an exported graph on numpy and ONNX Runtime: no PyTorch, no text model.

A process imports this module in a fraction of the time that PyTorch takes. Images are read by
`detclip2.data.io.image` and resized by Pillow, as the predictor does both.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from detclip2.data.io.image import read_image
from detclip2.export.info import PREFIX, GraphInfo
from detclip2.export.postprocess import Size, postprocess
from detclip2.utils.errors import UserError

if TYPE_CHECKING:
    from detclip2.data.io.image import ImageSource

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Inputs by name -> outputs by name."""

MISSING_ONNXRUNTIME = "this graph needs ONNX Runtime: pip install 'detclip2[runner]'"
MISSING_OPENVINO = "OpenVINO's format needs its package: pip install 'detclip2[openvino]'"

SETTINGS = ("score_threshold", "nms_threshold", "class_agnostic_nms", "max_detections")


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections of an image, best first."""

    image_size: Size
    """Height and width, px."""
    boxes: np.ndarray
    """(N, 4) float32 XYXY px of the image, upright if EXIF rotates it."""
    scores: np.ndarray
    """(N,) float32 in [0, 1]."""
    classes: np.ndarray
    """(N,) int64 in [0, C), indices into the labels of the vocabulary."""
    labels: list[str]
    """N labels."""

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[str, float, list[float]]]:
        """Label, score and box of each detection."""
        return zip(self.labels, self.scores.tolist(), self.boxes.tolist(), strict=True)


class Runner:
    """Detects a vocabulary in images with an exported graph::

        runner = Runner("detector.onnx", "names.safetensors")
        for label, score, box in runner("kitchen.jpg"):
            ...

    Detections equal those of the predictor whose model was exported, up to rounding, if the graph
    has a free size. At a fixed size an image is scaled to fit and the rest is padded.

    Args:
        graph: a file of `detclip2 export`: .onnx, or OpenVINO's .xml.
        vocabulary: a saved vocabulary (.safetensors), for a graph that has it as an input.
        threads: of the processor; None: all cores.
        providers: ONNX Runtime's, such as "CUDAExecutionProvider"; None: the processor.
        **settings: some of `SETTINGS`, instead of those in the file.

    Raises:
        UserError: a file is missing, damaged or of another kind; the vocabulary does not fit, is
            missing, or is given to a graph that has one; a setting is unknown or out of range.
    """

    def __init__(
        self,
        graph: str | os.PathLike[str],
        vocabulary: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        providers: list[str] | None = None,
        **settings: Any,
    ) -> None:
        path = Path(graph)
        if not os.path.isfile(path):
            raise UserError(f"{path}: there is no such graph file")
        if path.suffix == ".xml":
            self._run, properties = _openvino(path, threads)
        else:
            self._run, properties = _onnxruntime(path, threads, providers)
        info = GraphInfo.from_properties(properties, str(path))
        self._inputs = {}
        if info.labels is None:
            info, self._inputs["vocabulary"] = _with_vocabulary(info, vocabulary, path)
        elif vocabulary is not None:
            raise UserError(
                f"{path}: a vocabulary is folded into this graph, so it takes no other; export "
                "the model with `--vocabulary input`"
            )
        chosen = _checked(settings)
        # As many candidates as detections that are asked for, as in `PostProcess`.
        enough = max(info.max_candidates, chosen.get("max_detections", 0))
        info = replace(info, max_candidates=enough, **chosen)
        self.info = _with_calibrated_thresholds(info, chosen.get("score_threshold"))

    @property
    def labels(self) -> tuple[str, ...]:
        """The C labels that are detected."""
        return self.info.labels or ()

    def __call__(self, source: "ImageSource") -> Detections:
        """Detect in one image.

        Args:
            source: see `detclip2.data.io.image.read_image`.

        Raises:
            UserError: the image cannot be read.
        """
        image = read_image(source)
        size = image.shape[0], image.shape[1]
        pixels, seen = prepared(image, self.info)
        outputs = self._run({"image": pixels, **self._inputs})
        boxes, scores, classes = postprocess(
            outputs["logits"][0],
            outputs["centerness"][0],
            outputs["boxes"][0],
            self.info,
            seen,
            size,
        )
        return Detections(size, boxes, scores, classes, [self.labels[c] for c in classes.tolist()])


def prepared(image: np.ndarray, info: GraphInfo) -> tuple[np.ndarray, Size]:
    """The input of a graph for an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        info: sizes and padding.

    Returns:
        (1, 3, h, w) float32, and height and width without padding, px.
    """
    height, width = new_size((image.shape[0], image.shape[1]), info)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    step = info.divisor
    padded = info.size or (-(-height // step) * step, -(-width // step) * step)
    pixels = np.empty((1, 3, *padded), np.float32)
    pixels[:] = np.array(info.padding, np.float32)[:, None, None]
    pixels[0, :, :height, :width] = resized.transpose(2, 0, 1)
    return pixels, (height, width)


def new_size(size: Size, info: GraphInfo) -> Size:
    """Height and width, px, that an image is resized to.

    At a free size as Detectron2's ``ResizeShortestEdge``; else the largest that fits.
    """
    if info.size is not None:
        scale = min(info.size[0] / size[0], info.size[1] / size[1])
        height, width = (length * scale for length in size)
    else:
        scale = info.min_size / min(size)
        height, width = (length * scale for length in size)
        if max(height, width) > info.max_size:
            scale = info.max_size / max(height, width)
            height, width = height * scale, width * scale
    # The short side of a strip of 1 x 10,000 pixels would round to 0.
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def _onnxruntime(
    path: Path, threads: int | None, providers: list[str] | None
) -> tuple[Run, Mapping[str, str]]:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError(f"{path}: {MISSING_ONNXRUNTIME}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors; warnings are about its own optimisations
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=providers or ["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common class
        raise UserError(f"{path}: ONNX Runtime cannot load this graph: {error}") from None
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run, session.get_modelmeta().custom_metadata_map


def _openvino(path: Path, threads: int | None) -> tuple[Run, Mapping[str, str]]:
    try:
        import openvino
    except ModuleNotFoundError:
        raise UserError(f"{path}: {MISSING_OPENVINO}") from None
    core = openvino.Core()
    if threads is not None:
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    try:
        model = core.read_model(path)
        # Its processors with half-precision units would else compute at half precision.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # RuntimeErrors of several kinds
        raise UserError(f"{path}: OpenVINO cannot load this graph: {error}") from None
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        results = compiled.create_infer_request().infer(dict(inputs))
        return {name: results[name] for name in names}

    properties = {
        key: value.astype(str) for key, value in model.rt_info.items() if key.startswith(PREFIX)
    }
    return run, properties


def _with_vocabulary(
    info: GraphInfo, vocabulary: str | os.PathLike[str] | None, graph: Path
) -> tuple[GraphInfo, np.ndarray]:
    """The labels of a vocabulary file in the metadata, and its (R, D) embeddings."""
    from detclip2.inference.vocabulary_file import read_arrays

    if vocabulary is None:
        raise UserError(
            f"{graph}: the vocabulary is an input of this graph: give one, which `detclip2 "
            "vocabulary` writes"
        )
    fields = read_arrays(vocabulary)
    embeddings, again = fields["embeddings"], "encode the names again with the exported model"
    if embeddings.shape[1] != len(info.probe):
        raise UserError(
            f"{vocabulary}: its embeddings are {embeddings.shape[1]} wide and those of {graph} "
            f"are {len(info.probe)}: {again}"
        )
    if fields["encoder"] and info.encoder and fields["encoder"] != info.encoder:
        raise UserError(
            f"{vocabulary}: it was made by the text encoder {fields['encoder']!r} and {graph} "
            f"expects {info.encoder!r}: {again}"
        )
    # As `Vocabulary.check_fits`.
    if fields["probe"] @ np.array(info.probe, np.float32) < 0.999:
        raise UserError(
            f"{vocabulary}: it was made by the text encoder of {graph} with other weights: {again}"
        )
    rows = tuple(len(prompts) for prompts in fields["prompts"])
    labels, thresholds = fields["labels"], fields["thresholds"]
    info = replace(info, labels=labels, rows=rows, thresholds=thresholds)
    if (calibration := fields["calibration"]) is not None:
        maps = tuple(map(tuple, calibration.maps.tolist()))
        info = replace(info, maps=maps, map_of_label=calibration.map_of_label)
    return info, embeddings


def _with_calibrated_thresholds(info: GraphInfo, asked: float | None) -> GraphInfo:
    """As the predictor: with a calibration, the threshold that is asked for and those of labels are
    of calibrated scores, and take the place of the model's.
    """
    if info.calibration is None or (asked is None and info.thresholds is None):
        return info
    thresholds = np.maximum(info.thresholds or np.zeros(len(info.labels or ())), asked or 0)
    least = info.calibration.least_score(thresholds)
    return replace(info, thresholds=tuple(thresholds.tolist()), score_threshold=least)


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `SETTINGS` that are not None."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise UserError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
        if value is not None and name.endswith("threshold") and not 0 <= value <= 1:
            raise UserError(f"{name} is {value}; expected a number from 0 to 1")
        if value is not None and name == "max_detections" and value < 1:
            raise UserError(f"max_detections is {value}; expected at least 1")
    return {name: value for name, value in settings.items() if value is not None}

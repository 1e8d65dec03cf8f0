"""The budgets of inference: DetCLIPv2-T in PyTorch, ONNX Runtime and OpenVINO, and photo_nano.

Each row is the processor time of all threads from a uint8 image in memory to boxes, relative to the
reference, in turns with it. Graphs have a fixed size and the names folded in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detclip2.export import Runner, write_onnx, write_openvino
from detclip2.export.graph import DetectorGraph, describe, info_of, traced
from detclip2.export.precision import Precision, to_int8
from detclip2.inference.predictor import InferenceSettings, OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary

from .inference import Case, prepared
from .models import build, image_of, let_survive, names_of
from .timing import Setting, relative_to_reference

ENGINES = {"ONNX Runtime": ".onnx", "OpenVINO": ".xml"}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
DIVISOR = 32  # of the sides of a graph's input, px


@dataclass(frozen=True)
class Row:
    """What is measured: an engine and precision, for a case."""

    case: Case
    engine: str = "PyTorch"
    precision: Precision = "fp32"


def rows() -> Iterator[Row]:
    """PyTorch's, then those of the graphs."""
    wide, square = (800, 1333), (640, 640)
    for names, size in ((80, wide), (1203, wide), (13204, wide), (80, square)):
        yield Row(Case(names, size))
    for size in (square, wide):
        yield Row(Case(80, size, batch=8))
    for size in (square, wide):
        for engine in ENGINES:
            for precision in PRECISIONS:
                yield Row(Case(80, size), engine, precision)


def photograph_rows() -> list[Row]:
    """The model of photographs at the size of its inference, for a photograph of 4 : 3."""
    return [Row(Case(names, (320, 427), model="photo_nano")) for names in (80, 1203)]


def path_of(row: Row, folder: Path) -> Path:
    """The graph of a row."""
    name = "x".join(map(str, row.case.size))
    return folder / f"{name}-{row.precision}{ENGINES[row.engine]}"


def export(folder: Path, size: tuple[int, int], setting: Setting) -> None:
    """Write the graphs of a size for all engines and precisions.

    Ranges for 8 bits are taken on the measured image: they do not change the time.
    """
    setting.prepare()
    model = build("swin_t", setting)
    image = image_of(size)
    names = names_of(80)
    embeddings = torch.nn.functional.normalize(torch.randn(len(names), model.embed_dim))
    let_survive(model, image, embeddings, Case.survivors)
    predictor = OpenVocabularyPredictor.from_model(model, InferenceSettings(min(size), max(size)))
    rows = torch.cat([embeddings, embeddings[:1]])  # one more, by which vocabularies know encoders
    vocabulary = Vocabulary.from_names(names).encode(lambda texts: rows[: len(texts)])
    padded = tuple(-(-side // DIVISOR) * DIVISOR for side in size)
    info = info_of(predictor, vocabulary, (padded[0], padded[1]))
    plain = traced(DetectorGraph(model, vocabulary.embeddings).eval(), info)  # takes minutes
    graphs = {"int8": to_int8(plain, info, [pixels(image)]), "fp32": plain}
    for precision, graph in graphs.items():
        describe(graph, info)
        for engine, write in (("ONNX Runtime", write_onnx), ("OpenVINO", write_openvino)):
            write(graph, path_of(Row(Case(80, size), engine, precision), folder))


def pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def measure(row: Row, folder: Path, setting: Setting) -> dict[str, Any]:
    """A row of the table.

    Args:
        row: to measure.
        folder: has the graphs.
        setting: of the run; it measures processor time.
    """
    setting.prepare()
    case, run = row.case, detector(row, folder, setting)
    found = relative_to_reference(run, setting)
    for key, value in found["ratio"].items():
        found["ratio"][key] = value / case.batch
    about = {"model": case.model, "engine": row.engine, "precision": row.precision}
    return {**about, "size": case.size, "names": case.names, "batch": case.batch, **found}


def detector(row: Row, folder: Path, setting: Setting) -> Callable[[], object]:
    """The call of a row."""
    if row.engine == "PyTorch":
        return prepared(row.case, setting)[0]
    image = pixels(image_of(row.case.size))
    runner = Runner(path_of(row, folder), threads=torch.get_num_threads())
    return lambda: runner(image)

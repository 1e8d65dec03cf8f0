"""Inference by names, image size, batch and text; and the shares of its stages."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.text.text_bank import VocabularyState

from . import peak
from .models import build, image_of, let_survive, names_of, vocabulary_of
from .timing import Setting, relative_to_reference, seconds, synchronize

SIZES = ((800, 1333), (640, 640))
NAMES = (1, 80, 1203, 13204)
ALL = -1  # all pairs survive


@dataclass(frozen=True)
class Case:
    """A row of the table of our own model."""

    names: int = 80
    size: tuple[int, int] = (800, 1333)
    text: str = "cached"  # or "encoded": names go through the text tower for every image
    batch: int = 1
    survivors: int = 3000  # pairs above the score threshold
    model: str = "swin_t"


def cases(quick: bool) -> list[Case]:
    """The rows, cheap ones first; ``quick`` skips batches and rows that take minutes."""
    rows = [Case(names, size) for size in SIZES for names in NAMES]
    rows += [Case(names, survivors=ALL) for names in (80, 1203)]
    rows += [Case(names, text="encoded") for names in ((80,) if quick else (1, 80, 1203))]
    if not quick:
        rows += [Case(80, size, batch=8) for size in SIZES]
        rows += [Case(80, model="swin_l"), Case(80, (160, 160), model="nano")]
        rows += [Case(80, (256, 480), model="nano"), Case(80, (192, 192), model="nano")]
        rows += [Case(80, (320, 320)), Case(80, (320, 320), model="swin_l")]
        rows += [Case(13204, text="encoded")]
    return rows


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """One row: for ``batch`` images, the time of one image relative to the reference."""
    setting.prepare()
    run, survivors = prepared(case, setting)
    row = relative_to_reference(run, setting)
    row |= peak.share(run, row["seconds"]["median"], setting)
    for key, value in row["ratio"].items():
        row["ratio"][key] = value / case.batch
    return {**vars(case), "survivors": survivors, **row}


def prepared(case: Case, setting: Setting) -> tuple[Callable[[], object], int]:
    """The call of a row, and how many (anchor, name) pairs are above the threshold."""
    _, run, survivors = prepared_model(case, setting)
    return run, survivors


def prepared_model(case: Case, setting: Setting) -> tuple[DetCLIPv2, Callable[[], object], int]:
    """The model of a row, with what `prepared` returns."""
    model = build(case.model, setting, text=case.text == "encoded")
    image = image_of(case.size)
    with setting.context():
        if case.text == "encoded":
            vocabulary = model.encode_phrases(names_of(min(case.names, 80)))
        else:
            vocabulary = vocabulary_of(case.names, model)
        survivors = case.names * 10**6
        if case.survivors != ALL:
            survivors = let_survive(model, image, vocabulary, case.survivors)
    model.set_vocabulary(vocabulary)
    if setting.compile:
        compile_parts(model)
    samples: list[dict[str, Any]] = [{"image": image} for _ in range(case.batch)]
    if case.text == "encoded":
        samples = [{**sample, "vocabulary": names_of(case.names)} for sample in samples]

    def run() -> object:
        with setting.context():
            return model(samples)

    return model, run, survivors


def compile_parts(model: DetCLIPv2) -> None:
    """Compile the parts with fixed shapes; post-processing has none."""
    for part in model.compilable_parts():
        part.compile(dynamic=False)


def stages(case: Case, setting: Setting) -> dict[str, Any]:
    """Each stage's share of the time from image to detections, and its seconds (medians)."""
    setting.prepare()
    model = build(case.model, setting)
    image = image_of(case.size)
    samples = [{"image": image}]
    vocabulary = vocabulary_of(case.names, model)
    with setting.context():
        let_survive(model, image, vocabulary, case.survivors)
        model.set_vocabulary(vocabulary)
        model(samples)
        rows = []
        for _ in range(setting.repeats):
            with clocks(model, setting.device) as spent:
                total = seconds(lambda: model(samples), setting.device)
            rows.append(exclusive(spent, total))
    times = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    total = sum(times.values())
    return {
        **vars(case),
        "seconds": {name: float(f"{value:.3g}") for name, value in times.items()},
        "shares": {name: round(value / total, 3) for name, value in times.items()},
    }


@contextmanager
def clocks(model: DetCLIPv2, device: str) -> Iterator[dict[str, float]]:
    """Seconds spent in the parts of a model within the block, including nested parts."""
    spent: dict[str, float] = defaultdict(float)
    parts: dict[str, tuple[Any, str]] = {
        "preprocess": (model, "preprocess_image"),
        "bottom_up": (model.backbone.bottom_up, "forward"),
        "backbone": (model.backbone, "forward"),
        "head": (model.head, "forward"),
        "post-processing": (model, "postprocess"),
    }
    if isinstance(model.head.deformable, nn.Module):
        parts["deformable layer"] = (model.head.deformable, "forward")
    postprocess = model.postprocess
    for name, (owner, attribute) in parts.items():
        owner.__dict__[attribute] = _clocked(getattr(owner, attribute), name, spent, device)
    chunks = VocabularyState.chunks

    def clocked_chunks(state: VocabularyState, size: int) -> list[tuple[int, Any]]:
        return [
            (first, _clocked(similarity, "similarity", spent, device))
            for first, similarity in chunks(state, size)
        ]

    VocabularyState.chunks = clocked_chunks  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        VocabularyState.chunks = chunks  # type: ignore[method-assign]
        for owner, attribute in parts.values():
            del owner.__dict__[attribute]  # restores the method of its class
        model.postprocess = postprocess


def _clocked(
    function: Callable[..., Any], name: str, spent: dict[str, float], device: str
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        synchronize(device)
        spent[name] += time.perf_counter() - start
        return result

    return run


def exclusive(spent: dict[str, float], total: float) -> dict[str, float]:
    """The seconds of `clocks`, each part without its nested parts."""
    deformable = spent.get("deformable layer", 0.0)
    times = {
        "preprocess": spent["preprocess"],
        "backbone": spent["bottom_up"],
        "pyramid": spent["backbone"] - spent["bottom_up"],
        "deformable layer": deformable,
        "rest of the head": spent["head"] - deformable,
        "similarity": spent["similarity"],
        "post-processing": spent["post-processing"] - spent["similarity"],
    }
    counted = ("preprocess", "backbone", "head", "post-processing")
    return {**times, "other": max(total - sum(spent[name] for name in counted), 0.0)}

"""DetCLIPv2, GLIP and GLIPv2 side by side, at the nano size: an image by names, training samples.

The three have the same backbone, pyramid and data. Weights are random, so that no detection passes
the threshold in any of them; names are encoded before. A training step has forward, losses,
backward and the optimizer's step, of a batch that is loaded already. All times are those of the
processor.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate

from .models import image_of, names_of
from .timing import Setting, in_turns, spread, work_seconds
from .training import training_step

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
CONFIGS = {
    "DetCLIPv2": PROJECTS / "DetCLIPv2/configs/emoji_nano_grounding.py",
    "GLIP": PROJECTS / "GLIPv2/configs/emoji_glip_nano.py",
    "GLIPv2": PROJECTS / "GLIPv2/configs/emoji_glipv2_nano.py",
}
NAMES = (20, 200, 1000)
SOURCES = ("detection", "grounding")


def measure(
    setting: Setting, names: tuple[int, ...] = NAMES, edge: int = 160, batch: int = 8
) -> list[dict[str, Any]]:
    """A row for each model; ratios are to DetCLIPv2, an image to that with the fewest names."""
    setting.prepare()
    steps = {
        method: steps_of(path, names, edge, batch, setting) for method, path in CONFIGS.items()
    }
    rows = {(method, what): call for method, calls in steps.items() for what, call in calls.items()}
    for call in rows.values():
        call()
    turns = [
        dict(zip(rows, times, strict=True))
        for times in in_turns([*rows.values()], setting.repeats, work_seconds)
    ]
    first = next(iter(CONFIGS))
    base = dict.fromkeys(names, names[0]) | dict(zip(SOURCES, SOURCES, strict=True))
    return [
        {
            "model": method,
            "milliseconds": spread([1000 * times[method, names[0]] for times in turns]),
            **{
                str(what): spread([t[method, what] / t[first, base[what]] for t in turns])
                for what in steps[method]
            },
        }
        for method in CONFIGS
    ]


def steps_of(
    path: Path, names: tuple[int, ...], edge: int, batch: int, setting: Setting
) -> dict[int | str, Callable[[], object]]:
    """Calls to measure: an image with so many names; a training step of a source."""
    cfg = LazyConfig.load(str(path))
    cfg.world.size = edge
    for source in SOURCES:
        cfg.dataloader.train[source].total_batch_size = batch
        cfg.dataloader.train[source].num_workers = 0
    model = instantiate(cfg.model).eval()
    image = image_of((edge, edge))
    calls: dict[int | str, Callable[[], object]] = {}
    for many in names:
        state = model.prepare_vocabulary(names_of(many))
        calls[many] = partial(model.inference, [{"image": image, "vocabulary": state}])
    learner = instantiate(cfg.model).train()
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=1e-6)
    loader = instantiate(cfg.dataloader.train)
    loader.tokenise_by(learner.phrase_tokens)
    for source in SOURCES:
        samples = loader.next_batch(source)
        calls[source] = training_step(learner, optimizer, samples, "cpu", setting.dtype)
    return calls

"""``detclip2 plan``: estimate the cost of a training, or of a labelling, before it starts."""

import argparse
import math
import sys
from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import LazyCall
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from detclip2.commands.label_plan import add_label_arguments, plan_label
from detclip2.commands.model_arguments import add_trust_argument
from detclip2.commands.numbers import named
from detclip2.commands.tables import console_for_tables
from detclip2.config import (
    apply_overrides,
    build_model,
    load_config,
    require_keys,
)
from detclip2.data.hybrid_loader import source_nodes
from detclip2.engine.loader_cost import SourceRate, loader_processes
from detclip2.engine.network_cost import step_traffic
from detclip2.engine.step_cost import (
    StepCost,
    kept_for_backward,
    source_shares,
    step_cost,
    synthetic_samples,
)
from detclip2.engine.train_keys import add_train_defaults, check_train, positive_integer
from detclip2.engine.train_loop import precision
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.text.text_tower import (
    TextTowerMissing,
    load_tokenizer,
    untrained_clip_text_model,
)
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_of_user

GIGABYTE = 1e9

EXAMPLE = "detclip2 plan --config pretrain_o365_goldg_cc15m_swin_t --gpus 32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="a training config, by its name or as a .py or .yaml",
    )
    what.add_argument(
        "--label",
        nargs="+",
        metavar="DIR|TAR|LIST",
        help="images to be labelled by `detclip2 label`, or some like them",
    )
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="number of processes")
    add_label_arguments(parser)
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure steps of each source here, on images of noise (default: --measure)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="B",
        help="images of a measured step (default: a process's share on a GPU, 1 or 2 on a CPU)",
    )
    add_source_arguments(parser.add_argument_group("of sources; repeat an option for several"))
    add_trust_argument(parser)
    parser.add_argument("overrides", nargs="*", help="config changes, such as train.max_iter=100")


def add_source_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare what is given of a source instead of measured."""
    group.add_argument(
        "--seconds", type=named(float), action="append", default=[], metavar="SOURCE=S",
        help="of an iteration, measured elsewhere, in place of measuring it here",
    )  # fmt: skip
    group.add_argument(
        "--loaded", type=named(float), action="append", default=[], metavar="SOURCE=N",
        help="samples a second that one loader process makes, for the number of loaders",
    )  # fmt: skip
    group.add_argument(
        "--times", type=named(float), action="append", default=[], metavar="SOURCE=N",
        help="plan as many epochs of N times as much data",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print a table of the sources and the totals, or the time of a labelling."""
    if args.label:
        return plan_label(args)
    cfg, name = load_config(config_of_user(args.config), args.trust_config)
    known = add_train_defaults(cfg, name)
    apply_overrides(cfg, args.overrides, name)
    check_train(cfg, known, name)
    max_iter = positive_integer(cfg.train.max_iter, f"{name}: train.max_iter")
    sources, shares = check(cfg, args.gpus)
    seconds, loaded, times = (
        of_sources(getattr(args, option), option, shares)
        for option in ("seconds", "loaded", "times")
    )
    iterations = {source: shares[source] * max_iter * times.get(source, 1) for source in sources}
    seen = epochs(cfg, name, iterations, times)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    costs = {source: StepCost(number) for source, number in seconds.items()}
    if args.measure:
        costs = measure(cfg, name, args.gpus, device, args.samples, seconds)
    loaders = loaders_of(sources, iterations, costs, loaded, args.gpus)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("source")
    columns = ("batch", "a GPU", "iterations", "samples", "epochs", "s/iteration", "memory", "sent")
    for column in (*columns, "loaders"):
        table.add_column(column, justify="right")
    for source, node in sources.items():
        batch, number = node.total_batch_size, iterations[source]
        counts = (batch, batch // args.gpus, round(number), round(number * batch))
        table.add_row(
            source,
            *(f"{count:,}" for count in counts),
            f"{seen[source]:.1f}" if source in seen else "-",
            *cells_of(costs.get(source)),
            f"{loaders[source]:,}" if loaders else "-",
        )
    console = console_for_tables()
    console.print(table)
    console.print(f"iterations: {round(sum(iterations.values())):,}")
    for line in totals(iterations, costs, loaders, args.gpus, device, seconds):
        console.print(line)
    return 0


def of_sources(
    given: list[tuple[str, float]], option: str, sources: Collection[str]
) -> dict[str, float]:
    """Source -> number, as given with an option.

    Raises:
        UserError: there is no such source.
    """
    for name, _ in given:
        if name not in sources:
            raise UserError(
                f"--{option} names {name!r}; the sources of the config are {', '.join(sources)}"
            )
    return dict(given)


def epochs(
    cfg: DictConfig, name: str, iterations: dict[str, float], times: dict[str, float]
) -> dict[str, float]:
    """Source -> how often its images are seen, where the config says how many there are."""
    images = cfg.get("images") or {}
    require_keys(images, f"{name}: images")
    sources, found = source_nodes(cfg), {}
    for source, number in iterations.items():
        if source in images:
            count = positive_integer(images[source], f"{name}: images.{source}")
            batch = sources[source].total_batch_size
            found[source] = number * batch / (count * times.get(source, 1))
    return found


def loaders_of(
    sources: Any,
    iterations: dict[str, float],
    costs: dict[str, StepCost],
    loaded: dict[str, float],
    gpus: int,
) -> dict[str, int]:
    """Source -> loader processes of a GPU; none without the times and rates of all sources."""
    if not sources.keys() == costs.keys() == loaded.keys():
        return {}
    total = sum(iterations.values())
    return loader_processes(
        {
            source: SourceRate(
                batch=node.total_batch_size // gpus,
                share=iterations[source] / total,
                seconds=costs[source].seconds,
                loaded=loaded[source],
            )
            for source, node in sources.items()
        }
    )


def cells_of(cost: StepCost | None) -> list[str]:
    """Seconds, memory and bytes sent, as the table has them."""
    if cost is None:
        return ["-", "-", "-"]
    return [
        f"{cost.seconds:.2f}",
        "-" if cost.memory is None else f"{cost.memory / GIGABYTE:.2f} GB",
        "-" if cost.sent_bytes is None else f"{cost.sent_bytes / GIGABYTE:.2f} GB",
    ]


def totals(
    iterations: dict[str, float],
    costs: dict[str, StepCost],
    loaders: dict[str, int],
    gpus: int,
    device: str,
    given: Collection[str],
) -> list[str]:
    """Hours and loader processes of the whole run, with what is assumed."""
    lines = []
    if costs.keys() == iterations.keys():
        hours = sum(number * costs[source].seconds for source, number in iterations.items()) / 3600
        like = f"GPUs like the {device_name(device)} here"
        if given:
            like = (
                "GPUs with the given times" if len(given) == len(costs) else f"{like}, or as given"
            )
        lines.append(
            f"time, without data, evaluation and communication: {hours:,.1f} h on {gpus} {like}, "
            f"{hours * gpus:,.0f} GPU h"
        )
    if loaders:
        processes = sum(loaders.values())
        lines.append(
            f"loader processes: {processes:,} a GPU, {processes * gpus:,} in all, each on a core "
            "of its own"
        )
    return lines


def check(cfg: DictConfig, gpus: int) -> tuple[Any, dict[str, float]]:
    """The sources of a config and their shares of the iterations.

    Raises:
        UserError: there are none, or a batch cannot be divided evenly among the processes.
    """
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: expected 1 or more")
    sources = source_nodes(cfg)
    if not sources:
        raise UserError("the config has no dataloader.train with sources: there is nothing to plan")
    shares = source_shares(cfg)
    for name, source in sources.items():
        where = f"dataloader.train.{name}.total_batch_size"
        if positive_integer(source.get("total_batch_size"), where) % gpus:
            raise UserError(
                f"{gpus} GPUs cannot share a batch of {source.total_batch_size} of source {name!r} "
                "evenly"
            )
    return sources, shares


def measure(
    cfg: DictConfig,
    name: str,
    gpus: int,
    device: str,
    samples: int | None,
    given: dict[str, float],
) -> dict[str, StepCost]:
    """Source -> cost of its iteration in one process, from a step on images of noise.

    If the step has fewer samples than the process's share, its time is scaled to the share.
    What is sent is computed, for DetCLIPv2. Memory is the peak of a GPU and the optimizer's state;
    without a GPU it is counted: weights, gradients, the optimizer's state, and what is kept for the
    backward pass, scaled to as many samples as go through at once.

    Args:
        cfg: the config.
        name: its name.
        gpus: number of processes.
        device: "cuda" or "cpu".
        samples: of a step; None for as many as go through at once on a GPU, else as few as can.
        given: source -> seconds of an iteration that are not measured; nor is then the memory of a
            GPU.
    """
    model = model_to_measure(cfg, name).to(device).train()
    state = optimizer_bytes(model, gpus if cfg.train.zero else 1)
    costs = {}
    for source, node in source_nodes(cfg).items():
        supervision = supervision_of(source, node)
        share = node.total_batch_size // gpus
        phrases = node.mapper.max_phrases
        sent = sent_bytes(model, gpus, share, phrases, supervision)
        least = 2 if supervision == "caption" else 1  # the contrast needs two
        most = min(cfg.train.micro_batch.get(supervision, share), share)  # at once
        count = min(samples or (most if device == "cuda" else least), share)
        batch = synthetic_samples(count, size_of(node, cfg), phrases, supervision)
        lowered = precision(cfg.train.amp) if device == "cuda" else None
        seconds, memory = given.get(source), None
        with torch.autocast(device, dtype=lowered, enabled=lowered is not None):
            if seconds is None:
                cost = step_cost(model, lambda batch=batch: batch)  # type: ignore[misc]
                seconds, memory = cost.seconds * share / count, cost.memory
            if device == "cpu":
                kept = kept_for_backward(model, batch) * most / count
                memory = math.ceil(kept) + weights_and_gradients_bytes(model)
        costs[source] = StepCost(seconds, None if memory is None else memory + state, sent)
    return costs


def sent_bytes(
    model: nn.Module, gpus: int, share: int, phrases: int, supervision: str
) -> float | None:
    """What a process sends in a step at most; None for models other than DetCLIPv2.

    Args:
        model: the model.
        gpus: number of processes.
        share: samples of a process.
        phrases: most phrases of a sample; samples may share some.
        supervision: of the samples.
    """
    if not isinstance(model, DetCLIPv2):
        return None
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    texts = share if supervision == "caption" else 0
    return step_traffic(learning, gpus, share * phrases, model.embed_dim, texts).total


def model_to_measure(cfg: DictConfig, name: str) -> nn.Module:
    """The model of a config; without the files of its text tower, with one of random weights.

    Time and memory do not depend on weights. The other tower has the size of CLIP ViT-B/32, that of
    this project's configs, which is said.
    """
    try:
        return build_model(cfg, name)
    except TextTowerMissing as error:
        cfg = cfg.copy()
        cfg.model.text_tower.update(
            model=LazyCall(untrained_clip_text_model)(),
            tokenizer=LazyCall(load_tokenizer)(path="resource://text_tower_nano"),
        )
        print(
            f"detclip2: random text weights, of the size of CLIP ViT-B/32, are measured: {error}",
            file=sys.stderr,
        )
        return build_model(cfg, name)


def optimizer_bytes(model: nn.Module, processes: int) -> int:
    """Bytes of AdamW's two float32 moments for one process's part of the parameters."""
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return math.ceil(2 * 4 * numbers / processes)


def weights_and_gradients_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, and of the gradients of those that learn."""
    return sum(p.nbytes * (2 if p.requires_grad else 1) for p in model.parameters())


def supervision_of(source: str, node: DictConfig) -> str:
    """The supervision of a source's samples: "detection", "grounding" or "caption".

    Raises:
        UserError: the source's mapper has none of these.
    """
    target = node.mapper["_target_"]
    mapper = locate(target) if isinstance(target, str) else target
    supervision = getattr(mapper, "supervision", None)
    if supervision not in ("detection", "grounding", "caption"):
        raise UserError(
            f"dataloader.train.{source}.mapper: {target} has the supervision {supervision!r}; "
            "only detection, grounding and caption can be measured here: use --no-measure"
        )
    return supervision


def size_of(node: DictConfig, cfg: DictConfig) -> tuple[int, int]:
    """(H, W) of the largest augmented image, or of synthetic images."""
    for augmentation in node.mapper.augmentations:
        if "short_edge_length" in augmentation:
            edge = augmentation.short_edge_length
            edge = edge if isinstance(edge, int) else max(edge)
            return edge, augmentation.get("max_size", edge)
        if "shape" in augmentation:
            height, width = augmentation.shape
            return height, width
    size = node.records.get("size") or cfg.get("inference", {}).get("min_size", 800)
    return size, size


def device_name(device: str) -> str:
    """The name of the device."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"

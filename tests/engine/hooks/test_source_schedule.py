import copy
import itertools
import json
import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import JSONWriter

from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.engine.hooks.source_schedule import (
    AlternateSources,
    ReportSkipped,
    SeedEachIteration,
    SourceSchedule,
)
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes
from tests.helpers.toy import toy_loader, toy_trainer


def first_of(schedule, number, start=0):
    return [schedule.source_of(i) for i in range(start, start + number)]


def test_every_block_has_the_exact_mix():
    schedule = SourceSchedule({"boxes": 1, "pairs": 2, "grounding": 1}, block=8)
    for block in range(20):
        counts = Counter(first_of(schedule, 8, start=8 * block))
        assert counts == {"boxes": 2, "pairs": 4, "grounding": 2}


def test_the_mix_is_exact_over_several_blocks_if_one_block_is_too_short():
    counts = Counter(first_of(SourceSchedule({"boxes": 1, "pairs": 2}, block=10), 30 * 10))
    assert counts == {"boxes": 100, "pairs": 200}
    rare = first_of(SourceSchedule({"rare": 1, "often": 999}, block=100), 10_000)
    assert Counter(rare)["rare"] == 10


def turns_in_due_order(shares, number):
    """Slow reference: all turns of all sources, ordered by when they are due."""
    due = [((j + 0.5) / share, i) for i, share in enumerate(shares) for j in range(number + 1)]
    return np.bincount([i for _, i in sorted(due)[:number]], minlength=len(shares))


def test_uneven_shares_equal_a_loop_over_due_turns():
    rng = np.random.default_rng(0)
    for _ in range(15):
        ratios = rng.dirichlet(np.full(rng.integers(1, 6), 0.3)) + 1e-4
        schedule = SourceSchedule(dict(zip("abcde", ratios.tolist(), strict=False)), block=7)
        so_far = Counter()
        for block in range(8):
            so_far.update(first_of(schedule, 7, start=7 * block))
            expected = turns_in_due_order(ratios / ratios.sum(), 7 * (block + 1))
            assert [so_far[name] for name in schedule.ratios] == expected.tolist()


def test_the_order_depends_on_the_seed_alone():
    ratios = {"boxes": 1, "pairs": 1}
    order = first_of(SourceSchedule(ratios, seed=4), 300)
    assert first_of(SourceSchedule(ratios, seed=4), 300) == order
    assert first_of(SourceSchedule(ratios, seed=5), 300) != order
    assert order[:100] != order[100:200]
    jumping = SourceSchedule(ratios, seed=4)
    assert [jumping.source_of(i) for i in reversed(range(300))] == order[::-1]


def test_a_source_with_ratio_zero_has_no_turn():
    assert set(first_of(SourceSchedule({"boxes": 1, "pairs": 0}), 200)) == {"boxes"}


def test_a_source_has_its_share_from_its_start_on():
    ratios, starts = {"boxes": 1, "grounding": 1, "pairs": 2}, {"pairs": 25, "grounding": 5}
    order = first_of(SourceSchedule(ratios, block=8, starts=starts), 25 + 80)
    assert set(order[:5]) == {"boxes"}
    assert Counter(order[5:21]) == {"boxes": 8, "grounding": 8}
    assert "pairs" not in order[:25]
    assert Counter(order[25:]) == {"boxes": 20, "grounding": 20, "pairs": 40}
    jumping = SourceSchedule(ratios, block=8, starts=starts)
    assert [jumping.source_of(i) for i in reversed(range(105))] == order[::-1]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ({"pears": 3}, r"names \['pears'\], which are no sources"),
        ({"pairs": -1}, "iterations from 0 on"),
        ({"pairs": 1.5}, "iterations from 0 on"),
        ({"boxes": 10, "pairs": 3}, "one source that starts at iteration 0"),
    ],
)
def test_invalid_starts_are_refused(starts, message):
    with pytest.raises(UserError, match=message):
        SourceSchedule({"boxes": 1, "pairs": 1}, starts=starts)


@pytest.mark.parametrize(
    "ratios",
    [
        {"boxes": -1, "pairs": 2},
        {"boxes": 0},
        {},
        {"boxes": math.nan},
        {"boxes": math.inf},
        {"b": "x"},
    ],
)
def test_invalid_ratios_are_refused(ratios):
    with pytest.raises(UserError, match=r"train\.source_ratios must be positive numbers"):
        SourceSchedule(ratios)


def test_ratios_must_name_the_sources():
    with pytest.raises(UserError, match=r"\['first', 'secnd'\].* \['first', 'second'\]"):
        AlternateSources(toy_loader(), {"first": 1, "secnd": 1})


def test_without_ratios_every_record_is_seen_equally_often():
    hook = AlternateSources(toy_loader(batch_sizes=(2, 1), lengths=(30, 10)))
    ratios = hook.schedule.state_dict()["ratios"]
    assert ratios["first"] / ratios["second"] == pytest.approx(0.6 / 0.4)


def test_a_stream_of_unknown_length_needs_ratios():
    shards = Source(ImageTextStream("pairs.tar"), toy_loader().sources["first"].mapper, 2)
    loader = HybridLoader(boxes=toy_loader().sources["first"], pairs=shards)
    with pytest.raises(UserError, match=r"'pairs' is not known.* train\.source_ratios"):
        AlternateSources(loader)
    assert AlternateSources(HybridLoader(pairs=shards)).schedule.source_of(3) == "pairs"


def train(loader, ratios, iterations, extra=(), seed=0):
    trainer = toy_trainer(loader)
    hook = AlternateSources(loader, ratios, seed)
    trainer.register_hooks([hook, SeedEachIteration(seed), ReportSkipped(loader, 4), *extra])
    trainer.train(0, iterations)
    return trainer, hook


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_losses_are_logged_under_the_name_of_their_source(tmp_path):
    writer = hooks.PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=1)
    trainer, hook = train(toy_loader(), {"first": 1, "second": 1}, 12, [writer])
    lines = {line["iteration"]: line for line in read_metrics(tmp_path)}
    sizes = {"first": 2, "second": 1}
    values = {"first": 1.0, "second": 5.0}
    for iteration in range(12):
        name = hook.schedule.source_of(iteration)
        assert len(trainer.model.seen[iteration]) == sizes[name]
        logged = {key: value for key, value in lines[iteration].items() if "/" in key}
        assert logged.keys() == {f"{name}/total_loss", f"{name}/loss_a", f"{name}/loss_b"}
        assert logged[f"{name}/total_loss"] == pytest.approx(values[name], abs=0.02)
        assert logged[f"{name}/loss_b"] == pytest.approx(values[name] * 0.75, abs=0.02)


def test_a_single_source_adds_nothing_to_the_log(tmp_path):
    writer = hooks.PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=1)
    train(toy_loader(batch_sizes=(2,)), None, 3, [writer])
    assert not [key for line in read_metrics(tmp_path) for key in line if "/" in key]


def test_skipped_records_are_reported_regularly_and_at_the_end(caplog):
    caplog.set_level(logging.INFO)
    train(toy_loader(), None, 10)
    reports = [r.message for r in caplog.records if "skipped" in r.message]
    assert len(reports) == 2 * (10 // 4 + 1)
    assert sum("source first" in report for report in reports) == 3


class KeepState(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter + 1 == self.iteration:
            self.model = {k: v.clone() for k, v in self.trainer.model.state_dict().items()}
            self.state = copy.deepcopy(self.trainer.state_dict())


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    keep = KeepState(7)
    whole, _ = train(toy_loader(), {"first": 2, "second": 1}, 15, [keep])
    torch.save(keep.state, tmp_path / "state.pth")
    resumed = toy_trainer(loader := toy_loader())
    schedule = AlternateSources(loader, {"first": 2, "second": 1})
    resumed.register_hooks([schedule, SeedEachIteration()])
    resumed.model.load_state_dict(keep.model)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    resumed.train(7, 15)
    assert resumed.model.seen == whole.model.seen[7:]
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_a_schedule_that_differs_from_the_checkpoint_is_reported(caplog):
    _, hook = train(toy_loader(), {"first": 2, "second": 1}, 2)
    other = AlternateSources(toy_loader(), {"first": 1, "second": 1})
    other.load_state_dict(hook.state_dict())
    assert "differs from the checkpoint's" in caplog.text
    assert other.loader.drawn == hook.loader.drawn


def train_in_a_process(rank, world_size):
    loader = toy_loader(batch_sizes=(12, 6))
    order = []

    class Watch(HookBase):
        def after_step(self):
            order.append((self.trainer.source, torch.rand(()).item()))

    trainer, _ = train(loader, {"first": 1, "second": 1}, 10, [Watch()])
    return {"order": order, "seen": trainer.model.seen}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_all_processes_use_the_same_source_and_share_its_batches(world_size):
    alone = train_in_a_process(0, 1)
    together = run_processes(train_in_a_process, world_size)
    sources, randoms = zip(*(zip(*t["order"], strict=True) for t in together), strict=True)
    assert set(sources) == {tuple(name for name, _ in alone["order"])}
    distinct = set().union(*randoms)
    assert len(distinct) == sum(map(len, randoms))  # drop path differs between processes
    for *shares, whole in zip(*(t["seen"] for t in together), alone["seen"], strict=True):
        assert sorted(itertools.chain(*shares)) == sorted(whole)

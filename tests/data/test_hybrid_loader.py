import io
import itertools
import os
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from omegaconf import OmegaConf

from detclip2.data import hybrid_loader
from detclip2.data.hybrid_loader import HybridLoader, source_nodes
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.data.sources import DrawSampler, SampleStream, Source, StreamingRecords
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes


class ToyMapper:
    """The record's id, and a random number instead of an augmentation."""

    def __init__(self):
        self.counter = SkipCounter("toy")

    def __call__(self, record, rng):
        if record.get("bad"):
            raise SkipSample("caption-empty", str(record["image_id"]))
        return {"id": record["image_id"], "random": int(rng.integers(1 << 40)), "pid": os.getpid()}


def records(number, bad=()):
    return [{"image_id": i, "bad": i in bad} for i in range(number)]


def loader_of(number=7, batch_size=2, num_workers=0, seed=0, bad=()):
    source = Source(records(number, bad), ToyMapper(), batch_size, num_workers)
    return HybridLoader(seed=seed, toy=source)


def batches(loader, number, names=None):
    """The content of the next batches, from the sources of `names` in turn."""
    taken = []
    for name in itertools.islice(itertools.cycle(names or loader.sources), number):
        loader.select(name)
        taken.append([(sample["id"], sample["random"]) for sample in loader.next_batch()])
    return taken


def ids(taken):
    return [identity for batch in taken for identity, _ in batch]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three tars with five image-text pairs each; the toy mapper does not decode the images."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for key in range(5):
                for ending, data in (("jpg", b"picture"), ("txt", b"a dog")):
                    member = tarfile.TarInfo(f"{shard}{key}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return [str(path) for path in sorted(folder.iterdir())]


def two_sources(shards, num_workers):
    return HybridLoader(
        seed=3,
        boxes=Source(records(7, bad={2}), ToyMapper(), 2, num_workers),
        pairs=Source(ImageTextStream(shards, shuffle_buffer=4), ToyMapper(), 3, num_workers),
    )


def test_a_sample_depends_on_seed_and_draw_not_on_workers():
    stream = SampleStream(records(7), ToyMapper(), seed=5)
    forwards = [stream[draw] for draw in range(20)]
    assert [stream[draw] for draw in reversed(range(20))] == forwards[::-1]
    assert batches(loader_of(num_workers=0), 9) == batches(loader_of(num_workers=2), 9)
    assert batches(loader_of(seed=1), 9) != batches(loader_of(seed=0), 9)


def test_every_pass_has_every_record_once_in_a_new_order():
    taken = ids(batches(loader_of(7, batch_size=2), 14))
    passes = [taken[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_the_order_of_a_pass_is_that_of_earlier_versions_in_half_the_memory():
    stream = SampleStream(records(7), ToyMapper(), seed=5)
    for epoch in range(3):
        order = np.random.default_rng([5, epoch]).permutation(7)
        assert [stream[7 * epoch + i]["id"] for i in range(7)] == order.tolist()
    assert stream._order[1].nbytes == 4 * 7


def test_sources_of_equal_records_are_drawn_in_different_orders():
    one, other = (Source(records(50), ToyMapper(), 5, 0) for _ in range(2))
    loader = HybridLoader(one=one, other=other)
    assert batches(loader, 4, ["one"]) != batches(loader, 4, ["other"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_exactly_from_a_checkpoint(shards, num_workers, tmp_path):
    order = ["boxes", "pairs", "pairs"]
    loader = two_sources(shards, num_workers)
    for number in (4, 5):  # the second run starts with another worker
        batches(loader, number, order)
        torch.save(loader.state_dict(), tmp_path / "state.pth")
        resumed = two_sources(shards, num_workers)
        resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        assert resumed.drawn == loader.drawn
        follows = batches(resumed, 5, order)
        assert follows == batches(loader, 5, order)
        assert len(ids(follows)) == 2 + 3 + 3 + 2 + 3


def test_resumes_the_counts_of_skipped_records():
    loader = loader_of(num_workers=0, bad={2, 3})
    batches(loader, 20)
    resumed = loader_of(num_workers=0, bad={2, 3})
    resumed.load_state_dict(loader.state_dict())
    assert resumed.report() == loader.report()
    assert "toy" in resumed.report()[0]
    assert "caption-empty" in resumed.report()[0]


def test_a_source_absent_from_the_checkpoint_starts_from_the_beginning(caplog):
    loader = loader_of()
    loader.load_state_dict({"drawn": {"another": 40}, "skipped": {}})
    assert "toy" in caplog.text
    assert batches(loader, 3) == batches(loader_of(), 3)


def test_skipped_records_are_counted_and_replaced():
    loader = loader_of(10, batch_size=5, bad={4})
    taken = ids(batches(loader, 2 * 6))
    assert len(taken) == 60
    assert 4 not in taken
    # Once in each pass, and sometimes again when it is drawn as its own replacement.
    assert loader.sources["toy"].mapper.counter.counts()["caption-empty"] >= 6


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_without_usable_records_is_reported_in_one_sentence(num_workers):
    loader = loader_of(5, num_workers=num_workers, bad=range(5))
    with pytest.raises(UserError) as caught:
        loader.next_batch()
    sentence = str(caught.value)
    assert "100 records in a row" in sentence
    assert "caption-empty 100" in sentence
    assert sentence.startswith("source 'toy': ")
    assert "\n" not in sentence


def draws_of(rank, world_size, count=5, state=None):
    loader = loader_of(11, batch_size=6, num_workers=rank)  # workers have no rank of their own
    if state:
        loader.load_state_dict(state)
    drawn = [[(s["id"], s["random"]) for s in loader.next_batch()] for _ in range(count)]
    return {"drawn": drawn, "state": loader.state_dict()}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_processes_together_see_the_samples_of_one(world_size):
    together = run_processes(draws_of, world_size)
    alone = batches(loader_of(11, batch_size=6), 5)
    for *shares, whole in zip(*(process["drawn"] for process in together), alone, strict=True):
        assert sorted(itertools.chain(*shares)) == sorted(whole)
        assert {len(share) for share in shares} == {6 // world_size}


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 1), (1, 3)])
@pytest.mark.processes
def test_a_run_resumes_with_fewer_or_more_processes(before, after):
    first = run_processes(draws_of, before, 2)
    second = run_processes(draws_of, after, 3, first[0]["state"])
    joint = [sorted(itertools.chain(*shares)) for part in (first, second)
             for shares in zip(*(process["drawn"] for process in part), strict=True)]  # fmt: skip
    assert joint == [sorted(batch) for batch in batches(loader_of(11, batch_size=6), 5)]


def test_streams_warn_that_their_order_depends_on_the_processes(shards, monkeypatch, caplog):
    loader = two_sources(shards, 0)
    loader.load_state_dict(loader.state_dict())
    assert not caplog.text
    state = {**loader.state_dict(), "processes": 4}
    loader.load_state_dict(state)
    assert "sources ['pairs']: the order of streamed tar shards" in caplog.text
    assert "was 4 and is 1" in caplog.text


def test_the_sampler_keeps_the_rank_of_its_creation(monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    sampler = DrawSampler(6)
    monkeypatch.undo()  # as in a worker process
    assert list(itertools.islice(sampler, 4)) == [7, 10, 13, 16]


class MortalMapper(ToyMapper):
    """Kills its process at record 3, `deaths` times: it creates a file each time."""

    def __init__(self, folder, deaths):
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def __call__(self, record, rng):
        died = len(list(self.folder.iterdir()))
        if record["image_id"] == 3 and died < self.deaths:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(record, rng)


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_its_record_is_reported(tmp_path, caplog):
    mapper = MortalMapper(tmp_path, deaths=1)
    loader = HybridLoader(toy=Source(records(7), mapper, 2, num_workers=2))
    assert batches(loader, 6) == batches(loader_of(), 6)
    assert mapper.counter.counts() == {"worker-died": 1}
    (report,) = [r.getMessage() for r in caplog.records if "worker-died" in r.getMessage()]
    assert "of source 'toy', reading record 3 image_id=3: DataLoader worker" in report


@pytest.mark.slow
def test_a_worker_that_always_dies_ends_the_run_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid_loader, "MAX_RESTARTS", 1)
    mapper = MortalMapper(tmp_path, deaths=100)
    loader = HybridLoader(toy=Source(records(7), mapper, 7, num_workers=1))
    with pytest.raises(
        UserError, match=r"died 1 times in a row near draw 0 of source 'toy', read"
    ) as e:
        loader.next_batch()
    assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("other_loader", [False, True])
def test_a_dying_worker_does_not_interrupt_a_training_step(other_loader, monkeypatch):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if other_loader:  # such as the evaluation loader, which sets torch's handler
        monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
        next(iter(torch.utils.data.DataLoader(range(4), num_workers=1)))
        assert signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL
    loader = loader_of(num_workers=2)
    worker = loader.next_batch()[0]["pid"]
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.1)  # torch's own handler would raise here
    assert batches(loader, 6) == batches(loader_of(), 7)[1:]


def test_other_errors_of_a_mapper_are_not_hidden():
    class Broken(ToyMapper):
        def __call__(self, record, rng):
            raise RuntimeError("a mistake in the code")

    loader = HybridLoader(toy=Source(records(3), Broken(), 2, 0))
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        loader.next_batch()


def test_bad_settings_are_refused(monkeypatch):
    with pytest.raises(UserError, match="no records"):
        HybridLoader(toy=Source([], ToyMapper(), 2)).next_batch()
    with pytest.raises(UserError, match="has no source"):
        HybridLoader()
    with pytest.raises(UserError, match=r"seed .* is -1"):
        loader_of(seed=-1)
    with pytest.raises(UserError, match=r"no source 'toys'; there are .*'toy'"):
        loader_of().select("toys")
    with pytest.raises(UserError, match="total_batch_size is 0"):
        loader_of(batch_size=0)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(
        UserError, match=r"total_batch_size is 3; expected a positive multiple .* 2"
    ):
        loader_of(batch_size=3)


def test_records_may_come_from_a_function():
    loader = HybridLoader(toy=Source(lambda: records(7), ToyMapper(), 2, 0))
    assert batches(loader, 3) == batches(loader_of(), 3)


class Countdown(StreamingRecords):
    """A stream in one class: endless numbers, different in each process."""

    def __iter__(self):
        return ({"image_id": number} for number in itertools.count())

    def samples(self, mapper, batch_size, seed, position):
        return CountdownSamples(mapper, batch_size * position)


class CountdownSamples(torch.utils.data.IterableDataset):
    def __init__(self, mapper, start):
        self.mapper, self.start = mapper, start

    def __iter__(self):
        for number in itertools.count(self.start):
            yield self.mapper({"image_id": number}, np.random.default_rng(number))


def test_a_new_stream_is_one_class(caplog):
    def loader():
        return HybridLoader(numbers=Source(Countdown(), ToyMapper(), 3, 0))

    first = loader()
    assert ids(batches(first, 2)) == [0, 1, 2, 3, 4, 5]
    resumed = loader()
    resumed.load_state_dict({**first.state_dict(), "processes": 2})
    assert "sources ['numbers']: the order of a stream of records depends on" in caplog.text
    assert ids(batches(resumed, 1)) == [6, 7, 8]
    (source,) = first.sources.values()
    assert source.length is None
    assert source.describe("worker 3 died") == "records of a stream of records"
    records, order = source.preview(4, seed=1)
    assert ([r["image_id"] for r in records], order) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_a_damaged_record_that_a_dead_worker_read_is_named_by_its_index(monkeypatch):
    class Damaged(list):
        def __getitem__(self, index):
            raise SkipSample("image-unreadable", "cut off")

    source = Source(Damaged([0, 1, 2]), ToyMapper(), 1, 0)
    monkeypatch.setattr(source.progress, "records_of_dead_workers", lambda message: [2])
    assert source.describe("worker 3 died") == "record 2"


def test_a_batch_names_its_source(shards):
    loader = two_sources(shards, 0)
    batch = loader.next_batch("pairs")
    assert (batch.source, len(batch), loader.selected) == ("pairs", 3, "pairs")
    assert isinstance(batch, list)
    assert next(iter(loader)).source == "pairs"
    with pytest.raises(UserError, match="no source 'video'"):
        loader.next_batch("video")


def test_the_seed_orders_the_shown_records():
    source = Source(records(9), ToyMapper(), 2)
    assert source.length == 9
    orders = [source.preview(5, seed)[1] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) == 5
    assert sorted(source.preview(100, 0)[1]) == list(range(9))


def test_source_nodes_of_whole_and_partial_configs():
    node = {"mapper": {"_target_": "m"}, "records": {}}
    train = {"seed": "${train.seed}", "boxes": node, "pairs": "${pairs}", "lost": "${nothing}"}
    cfg = OmegaConf.create({"pairs": node, "dataloader": {"train": train}})
    assert list(source_nodes(cfg)) == ["boxes", "pairs"]
    for empty in ({}, {"dataloader": None}, {"dataloader": {"train": 3}}, {"dataloader": {}}):
        assert source_nodes(OmegaConf.create(empty)) == {}


@pytest.mark.parametrize("given", [True, 3, "records.json", {"0": {}}, None])
def test_records_and_mappers_of_another_kind_are_refused(given):
    with pytest.raises(UserError, match="the records of a source are"):
        Source(given, ToyMapper(), 1)
    with pytest.raises(UserError, match="the mapper of a source is"):
        Source(records(3), given, 1)

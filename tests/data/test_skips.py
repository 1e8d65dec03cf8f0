import logging
import multiprocessing

import pytest
from torch.utils.data import DataLoader, Dataset

from detclip2.data.skips import SkipCounter


class Counting(Dataset):
    def __init__(self, counter):
        self.counter = counter

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.counter.add("caption-empty" if index % 4 else "box-invalid", str(index))
        return index


@pytest.mark.parametrize(
    "method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods()))
)
@pytest.mark.processes
def test_counts_of_worker_processes_are_collected(method):
    counter = SkipCounter("web", num_examples=0)
    list(DataLoader(Counting(counter), num_workers=2, multiprocessing_context=method))
    assert counter.counts() == {"box-invalid": 10, "caption-empty": 30}
    assert counter.total() == 40


def test_a_name_that_is_not_utf_8_is_logged_with_escapes(caplog):
    SkipCounter().add("image-unreadable", "caf\udce9.png")
    assert "caf\\udce9.png" in caplog.text


def test_report_and_state():
    counter = SkipCounter("web")
    assert counter.report() == "web: skipped 0"
    counter.add("span-outside", number=3)
    counter.add("image-unreadable", "a.jpg")
    assert counter.report() == "web: skipped 4 (image-unreadable 1, span-outside 3)"
    again = SkipCounter("web")
    again.add("caption-empty")
    again.load_state_dict(counter.state_dict())
    assert again.counts() == counter.counts()


def test_the_first_few_of_each_kind_are_logged_with_their_file(caplog):
    counter = SkipCounter("web", num_examples=2)
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            counter.add("image-unreadable", f"{i}.jpg")
            counter.add("caption-empty", f"{i}.txt")
    text = caplog.text
    assert [f"{i}.jpg" in text for i in range(5)] == [True, True, False, False, False]
    assert [f"{i}.txt" in text for i in range(5)] == [True, True, False, False, False]


def test_a_kind_of_a_new_source():
    counter = SkipCounter(kinds={"no-sound": "a film without sound"})
    counter.add("no-sound")
    counter.add("never heard of", "x")
    assert counter.counts() == {"no-sound": 1, "other": 1}

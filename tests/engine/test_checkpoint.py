import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.source_schedule import AlternateSources, SeedEachIteration
from detclip2.utils.errors import UserError
from detclip2.utils.weights import read_weights
from tests.helpers.processes import fork_server
from tests.helpers.toy import toy_loader, toy_trainer


def model_of(value, size=4):
    model = nn.Linear(size, size)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value)
    return model


def assert_constant(model, value):
    assert all(p.eq(value).all() for p in model.parameters())


def test_saves_and_resumes_model_optimizer_and_hooks(tmp_path):
    loader = toy_loader()
    trainer = toy_trainer(loader)
    trainer.register_hooks([AlternateSources(loader), SeedEachIteration()])
    trainer.train(0, 5)
    Checkpointer(trainer.model, str(tmp_path), trainer=trainer).save("model_0000004", note=7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]

    resumed_loader = toy_loader()
    resumed = toy_trainer(resumed_loader)
    resumed.register_hooks([AlternateSources(resumed_loader), SeedEachIteration()])
    checkpointer = Checkpointer(resumed.model, str(tmp_path), trainer=resumed)
    assert checkpointer.resume_or_load("", resume=True)["note"] == 7
    assert torch.equal(resumed.model.weight, trainer.model.weight)
    assert resumed.iter == trainer.iter
    assert resumed_loader.drawn == loader.drawn
    momentum = [t.optimizer.state_dict()["state"][0]["momentum_buffer"] for t in (trainer, resumed)]
    assert torch.equal(*momentum)


def test_the_last_checkpoint_is_tagged(tmp_path):
    checkpointer = Checkpointer(model_of(0), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    for value in (1.0, 2.0):
        Checkpointer(model_of(value), str(tmp_path)).save(f"model_{value:.0f}")
        assert (tmp_path / "last_checkpoint").read_text() == f"model_{value:.0f}.pth"
        checkpointer.resume_or_load("", resume=True)
        assert_constant(checkpointer.model, value)
    checkpointer.resume_or_load(str(tmp_path / "model_1.pth"), resume=False)
    assert_constant(checkpointer.model, 1.0)


def test_writes_nothing_without_a_folder_or_on_other_ranks(tmp_path):
    Checkpointer(model_of(0)).save("model")
    Checkpointer(model_of(0), str(tmp_path), save_to_disk=False).save("model")
    assert not list(tmp_path.iterdir())


def value_of_the_last(folder):
    """The value that the last checkpoint of a folder holds; all others are complete too."""
    checkpointer = Checkpointer(model_of(-1.0, size=1000), str(folder))
    checkpointer.resume_or_load("", resume=True)
    value = checkpointer.model.weight[0, 0].item()
    assert value >= 0
    assert_constant(checkpointer.model, value)
    for path in Path(folder).glob("model_*.pth"):
        checkpointer.load(str(path))
        assert_constant(checkpointer.model, checkpointer.model.bias[0].item())
    checkpointer.save("model_final")
    assert not list(folder.glob(".*.pth.*"))  # the half-written file is removed too
    return value


# Functions of Python and torch that write, move or remove files.
WRITING = {
    *("open", "write", "write_record", "write_end_of_file", "flush", "fsync", "close"),
    *("rename", "replace", "unlink", "mkdir"),
}


def save_and_die(folder, number):
    """Save 1, then 2, and die before the `number`-th of the calls that write 2."""
    torch.set_num_threads(1)
    Checkpointer(model_of(1.0, size=1000), folder).save("model_1")
    numbers = itertools.count()

    def die(frame, event, called):
        if event == "c_call" and called.__name__ in WRITING and next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(die)
    Checkpointer(model_of(2.0, size=1000), folder).save("model_2")
    sys.setprofile(None)


@pytest.mark.processes
def test_a_process_killed_before_any_write_leaves_a_whole_checkpoint(tmp_path):
    values = []
    forked = multiprocessing.get_context(
        "fork"
    )  # nothing is imported again: this takes milliseconds
    for number in itertools.count():
        folder = tmp_path / str(number)
        process = forked.Process(target=save_and_die, args=(str(folder), number))
        process.start()
        process.join()
        if process.exitcode == 0:
            break  # there are fewer calls than that
        assert process.exitcode == -signal.SIGKILL
        values.append(value_of_the_last(folder))
    assert len(values) > 8
    assert values == sorted(values)
    assert set(values) == {1.0, 2.0}


def save_for_ever(folder):
    torch.set_num_threads(1)
    value = 0
    while True:
        checkpointer = Checkpointer(model_of(float(value), size=1000), folder)
        checkpointer.save(f"model_{value % 2}")  # every other run overwrites an old checkpoint
        value += 1


@pytest.mark.processes
def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    """Killed from outside, possibly within a write: the point is random."""
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / str(number)
        process = fork_server().Process(target=save_for_ever, args=(str(folder),), daemon=True)
        process.start()
        while not (folder / "last_checkpoint").exists():
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        value_of_the_last(folder)


def test_names_of_wrappers_are_removed(tmp_path):
    """Of weights as of their average, which a new run starts from."""
    content = {
        key: {f"_orig_mod.module.{name}": t for name, t in model_of(value).state_dict().items()}
        for key, value in (("model", 1.0), ("ema", 2.0))
    }
    torch.save(content, tmp_path / "wrapped.pth")
    for resume, value in ((False, 2.0), (True, 1.0)):
        model = model_of(0.0)
        kwargs = {} if resume else {"checkpointables": []}
        Checkpointer(model).load(str(tmp_path / "wrapped.pth"), **kwargs)
        assert_constant(model, value)


def test_reads_safetensors_and_bare_state_dicts(tmp_path):
    save_file(model_of(3.0).state_dict(), tmp_path / "model.safetensors")
    torch.save(model_of(4.0).state_dict(), tmp_path / "model.pth")
    checkpointer = Checkpointer(model_of(0.0))
    checkpointer.load(str(tmp_path / "model.safetensors"))
    assert_constant(checkpointer.model, 3.0)
    checkpointer.load(str(tmp_path / "model.pth"))
    assert_constant(checkpointer.model, 4.0)
    assert checkpointer.load("") == {}


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pyth"])
def test_pickle_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": model_of(1.0).state_dict(), "more": Harmful()}, tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} needs pickle.* \.safetensors"):
        Checkpointer(model_of(0.0)).load(str(tmp_path / name))
    assert not (tmp_path / "harmed").exists()


def truncated(path):
    torch.save(model_of(1.0, size=100).state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "there is no such checkpoint"),
        (lambda path: path.mkdir(), "there is no such checkpoint"),
        (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
        (truncated, "cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "cannot be read as"),
        (lambda path: torch.save([1, 2], path), "no state dict of tensors"),
        (lambda path: torch.save(7, path), "no state dict of tensors"),
        (lambda path: torch.save({"model": 7}, path), "no state dict of tensors"),
        (lambda path: torch.save({"model": {7: torch.ones(1)}}, path), "no state dict of tensors"),
        (lambda path: torch.save({"model": {"weight": 3}}, path), "no state dict of tensors"),
        (lambda path: torch.save(nn.Conv2d(1, 1, 1).state_dict(), path), r"\(1, 1, 1, 1\)"),
        (lambda path: torch.save({"other": torch.ones(2)}, path), "no weights for the model"),
    ],
)
def test_errors_say_what_is_wrong_with_a_file(tmp_path, make, sentence):
    make(tmp_path / "model.pth")
    with pytest.raises(UserError, match=sentence) as caught:
        Checkpointer(model_of(0.0)).load(str(tmp_path / "model.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_reported(tmp_path, name, seed):
    """Any exception of torch's reader becomes a UserError: KeyError, IndexError, ..."""
    rng = np.random.default_rng(seed)
    path = tmp_path / name
    # The first bytes decide which of torch's readers takes the file.
    start = [b"", b"\x80\x02", b"PK\x03\x04", b"}q\x00", b"h\x00."][seed % 5]
    path.write_bytes(start + rng.bytes(int(rng.integers(1, 300))))
    before = path.read_bytes()
    for read in (Checkpointer(model_of(0.0)).load, read_weights):
        with pytest.raises(UserError, match=f"{name} cannot be read as") as caught:
            read(str(path))
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_tag_without_its_file_is_reported(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(UserError, match=r"model_final\.pth: there is no such checkpoint"):
        Checkpointer(model_of(0.0), str(tmp_path)).resume_or_load("", resume=True)

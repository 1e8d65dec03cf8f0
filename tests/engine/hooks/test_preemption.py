import os
import signal

import pytest
import torch
from detectron2.engine import HookBase

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.preemption import PreemptionHook, signals_for_children
from tests.helpers.processes import run_processes
from tests.helpers.stopping import Send, train, train_shared


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["before_step", "after_backward", "after_step"])
def test_a_signal_ends_the_iteration_and_leaves_a_checkpoint(tmp_path, number, moment):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, Send(number, 4, moment))
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    whole, resumed = train(tmp_path / "whole"), train(tmp_path, resume=True)
    assert resumed.model.seen == whole.model.seen[5:]
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_a_signal_does_not_wait_for_an_evaluation(tmp_path):
    def evaluate():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    with pytest.raises(SystemExit):
        train(tmp_path, evaluate=evaluate)
    state = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert state["iteration"] == state["trainer"]["iteration"] == 1


def test_a_signal_after_the_last_iteration_writes_no_second_checkpoint(tmp_path):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, Send(signal.SIGTERM, 7, "after_backward"))
    assert ended.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())  # PeriodicCheckpointer has written it, in a real run


def test_a_signal_in_the_first_iteration_leaves_its_checkpoint(tmp_path):
    with pytest.raises(SystemExit):
        train(tmp_path, Send(signal.SIGTERM, 0, "before_step"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"


def twice(rank, world_size, folder):
    """In a separate process, which the second signal ends."""
    child = os.fork()
    if child == 0:

        class Twice(HookBase):
            def after_step(self):
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGTERM)

        train(folder, Twice())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status)


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    assert twice(0, 1, tmp_path) == signal.SIGTERM
    assert not list(tmp_path.iterdir())


def exit_code(folder, *extra):
    try:
        train_shared(folder, *extra)
    except SystemExit as error:
        return {"code": error.code}
    return {"code": 0}


def one_is_asked(rank, world_size, folder):
    extra = [Send(signal.SIGTERM, 3, "after_backward")] if rank == 1 else []
    return exit_code(folder, *extra)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_all_processes_stop_after_the_same_iteration(tmp_path, world_size):
    ended = run_processes(one_is_asked, world_size, str(tmp_path))
    assert [process["code"] for process in ended] == [128 + signal.SIGTERM] * world_size
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def one_signal_reaches_all(rank, world_size, folder):
    """The first process gets its signal after all processes have agreed to stop."""
    save = Checkpointer.save

    def save_late(self, *args, **kwargs):
        if rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, *args, **kwargs)

    Checkpointer.save = save_late  # in a separate process
    return one_is_asked(rank, world_size, folder)


@pytest.mark.processes
def test_a_late_signal_to_one_process_does_not_count_as_a_second(tmp_path):
    ended = run_processes(one_signal_reaches_all, 2, str(tmp_path))
    assert [process["code"] for process in ended] == [128 + signal.SIGTERM] * 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def asked_while_agreeing(rank, world_size, folder):
    """Process 1 gets its signal right after all processes have reported none."""
    reduce = torch.distributed.all_reduce

    def reduce_late(tensor, op=torch.distributed.ReduceOp.SUM):
        reduce(tensor, op)
        if rank == 1 and op == torch.distributed.ReduceOp.MAX:
            torch.distributed.all_reduce = reduce
            os.kill(os.getpid(), signal.SIGTERM)

    torch.distributed.all_reduce = reduce_late
    return exit_code(folder)


@pytest.mark.processes
def test_a_signal_while_processes_agree_is_not_lost(tmp_path):
    ended = run_processes(asked_while_agreeing, 2, str(tmp_path))
    assert [process["code"] for process in ended] == [128 + signal.SIGTERM] * 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_data_workers_end_by_sigterm_and_ignore_sigint(tmp_path):
    """Workers are forked with the handler of their parent."""
    stop = PreemptionHook(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)))
    with stop.listening():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)  # passes
            os.kill(os.getpid(), signal.SIGTERM)  # does not
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert stop.requested is None


def test_a_parent_forwards_sigterm_but_not_sigint(monkeypatch):
    sent = []
    kill = os.kill

    class Child:
        pid = 7

    monkeypatch.setattr("multiprocessing.active_children", lambda: [Child])
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals_for_children():
        kill(os.getpid(), signal.SIGINT)
        kill(os.getpid(), signal.SIGTERM)
    assert sent == [(7, signal.SIGTERM)]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

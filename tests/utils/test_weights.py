import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detclip2.utils.errors import UserError
from detclip2.utils.weights import load_weights, read_weights, without_wrappers


def module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.fixture(params=["weights.safetensors", "weights.pth"])
def path(request, tmp_path):
    return tmp_path / request.param


def assert_equal_states(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_saved_weights_are_read_back(path):
    trained, fresh = module(0), module(1)
    load_weights(fresh, write(trained.state_dict(), path))
    assert_equal_states(fresh.state_dict(), trained.state_dict())


def test_checkpoint_with_more_than_the_model(tmp_path):
    trained = module()
    checkpoint = {"model": trained.state_dict(), "iteration": 7, "optimizer": {"lr": [0.1]}}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_equal_states(read_weights(str(tmp_path / "checkpoint.pth")), trained.state_dict())


def test_mismatched_weights_are_named_and_nothing_is_loaded(path):
    fresh, before = module(1), module(1).state_dict()
    state = module(0).state_dict()
    del state["0.bias"]
    state["head.weight"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(2, 4)
    with pytest.raises(UserError) as error:
        load_weights(fresh, write(state, path))
    message = str(error.value)
    assert str(path) in message
    assert "3 entries differ" in message
    for part in ("missing 0.bias", "unknown head.weight", "0.weight is (2, 4), expected (2, 3)"):
        assert part in message
    assert_equal_states(fresh.state_dict(), before)


def test_a_long_list_of_differences_is_truncated(path):
    with pytest.raises(UserError, match=r"7 entries differ: .*; \.\.\.\)") as error:
        load_weights(module(), write({}, path.with_suffix(".pth")))
    assert len(str(error.value)) < 400


def test_ignored_prefixes(path):
    state = {**module(0).state_dict(), "head.weight": torch.zeros(1), "heads": torch.zeros(1)}
    write(state, path)
    with pytest.raises(UserError, match="1 entries differ: unknown heads"):
        load_weights(module(1), path, ignore=("head.",))
    load_weights(module(1), path, ignore=("head.", "heads"))


def test_converted_names(path):
    trained, fresh = module(0), module(1)
    write({f"net.{name}": t for name, t in trained.state_dict().items()}, path)
    load_weights(fresh, path, convert=lambda s: {k.removeprefix("net."): v for k, v in s.items()})
    assert_equal_states(fresh.state_dict(), trained.state_dict())


class Harmful:
    ran = False

    def __reduce__(self):
        return setattr, (Harmful, "ran", True)


def test_pickle_is_refused_and_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": Harmful()}, path)
    with pytest.raises(UserError, match=r"weights.pth needs pickle.*save .* as .safetensors"):
        read_weights(path)
    path.write_bytes(pickle.dumps({"model": Harmful()}))
    with pytest.raises(UserError, match=r"weights\.pth"):
        read_weights(path)
    assert not Harmful.ran


@pytest.mark.parametrize("keep", [0, 3, 60, -5], ids=lambda n: f"keep={n}")
def test_broken_files_are_named(path, keep):
    whole = write(module().state_dict(), path).read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(UserError, match=path.name):
        read_weights(path)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02garbage", b"PK\x03\x04nothing"])
def test_other_files_are_named(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"a": 1}, {"model": {"a": {}}}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights.pth holds no state dict"):
        read_weights(tmp_path / "weights.pth")


def test_missing_files_and_folders_are_named(path, tmp_path):
    with pytest.raises(UserError, match=f"no weights file at {path}"):
        read_weights(path)
    with pytest.raises(UserError, match=f"no weights file at {tmp_path}"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "module.module.{}",
    ],
)
def test_names_of_wrappers_are_removed(path, wrapped):
    """Of DistributedDataParallel and torch.compile, in any order."""
    trained, fresh = module(0), module(1)
    write({wrapped.format(name): t for name, t in trained.state_dict().items()}, path)
    load_weights(fresh, path)
    assert_equal_states(fresh.state_dict(), trained.state_dict())


def test_names_of_a_compiled_part():
    """As torch.compile of a part gives them, inside DistributedDataParallel."""
    state = {"module.0._orig_mod.weight": torch.zeros(1), "module.1.bias": torch.ones(1)}
    assert without_wrappers(state) == {"0.weight": torch.zeros(1), "1.bias": torch.ones(1)}


def test_own_parts_called_module_stay():
    state = {name: torch.zeros(1) for name in ("module.weight", "head.module.bias")}
    assert list(without_wrappers(state)) == list(state)
    same = {"a._orig_mod.b": torch.zeros(1), "a.b": torch.ones(1)}
    assert without_wrappers(same) == same
    assert without_wrappers({}) == {}


def test_a_file_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    compressed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, compressed as bomb:
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"bomb.pth is refused: it unpacks to 4,\d{3},\d{3} bytes"):
        read_weights(path)


def test_a_head_that_claims_a_huge_size_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read"):
        read_weights(path)
    head = (
        b'{"a": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}'
    )
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read"):
        read_weights(path)

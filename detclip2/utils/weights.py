"""Reading of weights: safetensors, or torch files without pickle."""

import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from detclip2.utils.errors import UserError

State = dict[str, torch.Tensor]
_COMPILED = "_orig_mod"
_WRAPPERS = ("module", _COMPILED)
NO_STATE = "holds no state dict of tensors (expected name -> tensor)"


def read_weights(path: str | Path) -> State:
    """The state dict in a .safetensors or torch file, on the CPU.

    A torch file has the state dict itself, or a checkpoint with it under "model", or with an
    average of the weights under "ema", which is preferred.

    Prefixes that wrappers of PyTorch put before names are removed: see `without_wrappers`.

    Raises:
        UserError: the file is missing, broken, or needs pickle, which could run any code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file at {path}")
    content = read_checkpoint(path, "weights")
    state = content.get("ema", content["model"])
    if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path} {NO_STATE}")
    return without_wrappers(state)


def read_published(path: str | Path) -> State:
    """The weights of a file of another project, on the CPU; not their average.

    They are the file itself, or under "model" or "state_dict".

    Raises:
        UserError: as `read_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file at {path}")
    content = read_checkpoint(path, "weights")["model"]
    state = content.get("state_dict", content)
    if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path} {NO_STATE}")
    return state


def read_checkpoint(path: str | Path, what: str = "a checkpoint") -> dict[str, Any]:
    """The content of a .safetensors or torch file, on the CPU, with its state dict under "model".

    Args:
        path: an existing file.
        what: name of its content in messages.

    Raises:
        UserError: the file is broken, needs pickle, or has no state dict.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return {"model": load_file(path)}
        _check_entries(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # Torch's files are zip files; other files only look like pickle.
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} cannot be read as {what}: it is no file of tensors") from error
        raise UserError(
            f"{path} needs pickle, which can run any code when loaded, so it is refused: "
            "save its state dict of tensors as .safetensors"
        ) from error
    except Exception as error:  # broken files raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as {what}: {reason}") from error
    if not isinstance(content, dict) or "model" not in content:
        content = {"model": content}
    state = content["model"]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path} {NO_STATE}")
    return content


def _check_entries(path: Path) -> None:
    """Refuse a zip file that unpacks to more than itself: torch writes entries as they are.

    Raises:
        UserError: the entries are compressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        unpacked = sum(entry.file_size for entry in file.infolist())
    if unpacked > path.stat().st_size:
        raise UserError(
            f"{path} is refused: it unpacks to {unpacked:,} bytes, more than its own "
            f"{path.stat().st_size:,}; expected a file of torch.save, which compresses nothing"
        )


def without_wrappers(state: State) -> State:
    """A state dict with the names of the model itself, without those of wrappers.

    ``DistributedDataParallel`` and ``DataParallel`` put "module." before every name;
    ``torch.compile`` puts "_orig_mod." before the names of what it compiles, which may be a part.
    """
    names = [name.split(".") for name in state]
    while names and all(len(parts) > 1 and parts[0] in _WRAPPERS for parts in names):
        names = [parts[1:] for parts in names]
    plain = [".".join(part for part in parts if part != _COMPILED) for parts in names]
    if len({*plain}) < len(plain):  # no wrapper makes these names
        return state
    return dict(zip(plain, state.values(), strict=True))


def load_weights(
    module: nn.Module,
    path: str | Path,
    ignore: Sequence[str] = (),
    convert: Callable[[State], State] | None = None,
) -> None:
    """Load a file into ``module``; it must have every parameter with its shape.

    Args:
        module: the module to fill.
        path: a file that `read_weights` reads.
        ignore: prefixes of entries in the file that ``module`` need not have (e.g. a classifier).
        convert: maps the entries to names and shapes of ``module``.

    Raises:
        UserError: entries do not fit; the message names them.
    """
    state = read_weights(path)
    if convert is not None:
        state = convert(state)
    state = {name: t for name, t in state.items() if not name.startswith(tuple(ignore))}
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unknown {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise UserError(
            f"the weights in {path} do not fit the model of the config "
            f"({len(problems)} entries differ: {shown}): give the config they were trained with"
        )
    module.load_state_dict(state)

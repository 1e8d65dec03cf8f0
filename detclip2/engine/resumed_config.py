"""Check that a resumed run has the config that it was begun with."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from detclip2.config import load_config
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME

SHOWN = 3
# What changes neither the samples nor the weights of an iteration, and the length of the run.
_FREE = tuple(
    f"train.{key}" for key in ("output_dir", "device", "max_iter", "log_period", "report_period")
)
_FREE_PARTS = ("train.checkpointer", "train.wandb", "train.trackio", "train.mlflow")
_FREE_ANYWHERE = "num_workers"
_ABSENT = "absent"

logger = logging.getLogger(__name__)


def check_resumed(cfg: DictConfig) -> None:
    """Compare a config with the one in its output folder, if there is a run to continue.

    Args:
        cfg: the config of the run, with ``train.output_dir``.

    Raises:
        UserError: a key differs that changes what the run would be; the message names it, with its
            values then and now.
    """
    folder = Path(cfg.train.output_dir)
    before = folder / CONFIG_NAME
    if not (before.is_file() and (folder / "last_checkpoint").is_file()):
        return
    with tempfile.TemporaryDirectory() as aside:
        now = Path(aside) / CONFIG_NAME
        LazyConfig.save(cfg, str(now))
        try:
            then, these = (dict(_flat(_plain(path))) for path in (before, now))
        except UserError as error:  # yaml cannot hold every config
            logger.warning("this config cannot be compared with that of the run: %s", error)
            return
    differ = [key for key in (then | these) if then.get(key, _ABSENT) != these.get(key, _ABSENT)]
    moved = "train.device" in differ  # to a GPU, with mixed precision, or away from one
    differ = [key for key in differ if not _is_free(key) and not (moved and "train.amp." in key)]
    if differ:
        shown = [
            f"{key} was {then.get(key, _ABSENT)}, and is {these.get(key, _ABSENT)}"
            for key in differ[:SHOWN]
        ]
        more = f" (and {len(differ) - SHOWN} more keys)" if len(differ) > SHOWN else ""
        raise UserError(
            f"--resume: the config is not that of the run in {folder}: {'; '.join(shown)}{more}. "
            "Continue it with its own config, or begin another run in a new folder from its "
            f"weights (train.init_checkpoint); if the change is meant, make it in {before} too"
        )


def _plain(path: Path) -> Any:
    return OmegaConf.to_container(load_config(path)[0], resolve=False)


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts, by dotted keys; lists are values, unless they hold dicts."""
    children: Mapping[Any, Any] = {}
    if isinstance(node, Mapping):
        children = node
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        children = dict(enumerate(node))
    if not children:
        yield path, node
    for key, child in children.items():
        yield from _flat(child, f"{path}.{key}" if path else str(key))


def _is_free(key: str) -> bool:
    """Whether a resumed run may have another value."""
    is_part = any(key == part or key.startswith(f"{part}.") for part in _FREE_PARTS)
    return key in _FREE or is_part or key.rpartition(".")[2] == _FREE_ANYWHERE

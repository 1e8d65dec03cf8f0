"""Checks of test sets before a training or an evaluation starts."""

from collections.abc import Iterable

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from detclip2.config import build
from detclip2.data.datasets.packed import PackedRecords
from detclip2.data.io.image_files import image_problem
from detclip2.utils.errors import UserError


def check_test_sets(cfg: DictConfig, nodes: Iterable[tuple[str, str]]) -> None:
    """Check that test sets can be evaluated on, rather than fail in the first evaluation.

    Their images and annotations are read; 1,000 images take about half a second of CPU. Test sets
    whose loader has no ``dataset`` to build are not checked.

    Args:
        cfg: the config.
        nodes: path of each test set, and the key of its loader.

    Raises:
        UserError: an image is missing, damaged or of another size than stated, or the annotations
            cannot be evaluated on.
    """
    for node, loader in nodes:
        path = f"{node}.{loader}.dataset"
        if not isinstance(OmegaConf.select(cfg, path), DictConfig):
            continue
        records = build(cfg, path)
        is_reader = isinstance(records, list | PackedRecords) and comm.is_main_process()
        problem = comm.all_gather(image_problem(records) if is_reader else "")[0]
        if problem:
            raise UserError(f"{path}: {problem}")
        build(cfg, f"{node}.evaluator")

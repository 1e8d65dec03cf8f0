"""The folder of a run as a model folder: it has every file that its model reads beside weights."""

import copy
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from detclip2.config import OWN_FOLDER
from detclip2.data_config import change_texts
from detclip2.modeling.text.text_tower import save_without_weights
from detclip2.utils.model_folder import CONFIG_NAME, TEXT_FOLDER

TEXT_MODEL = "model.text_tower.model"


def keep_text_model(cfg: DictConfig) -> None:
    """Copy config and tokenizer of the text model into the run's folder; the config names the copy.

    Only where the config names a folder, as that of converted weights does, and the text model has
    its weights from the model's own file. Every process calls this; the main one copies.
    """
    source = OmegaConf.select(cfg, f"{TEXT_MODEL}.path")
    reads_weights = OmegaConf.select(cfg, f"{TEXT_MODEL}.pretrained", default=True)
    if reads_weights or not isinstance(source, str) or not Path(source).is_dir():
        return
    kept = _folder(cfg) / TEXT_FOLDER
    if comm.is_main_process() and Path(source).absolute() != kept:
        save_without_weights(source, kept)
    comm.synchronize()
    change_texts(cfg.model, lambda text: str(kept) if text == source else text)


def save_config(cfg: DictConfig) -> None:
    """Write ``config.yaml``; the model's paths into the folder are relative, so that it can move.

    Only the main process writes.
    """
    if not comm.is_main_process():
        return
    own, saved = f"{_folder(cfg)}/", copy.deepcopy(cfg)

    def relative(text: str) -> str:
        return OWN_FOLDER + text.removeprefix(own) if text.startswith(own) else text

    change_texts(saved.model, relative)
    LazyConfig.save(saved, str(Path(cfg.train.output_dir) / CONFIG_NAME))


def _folder(cfg: DictConfig) -> Path:
    return Path(cfg.train.output_dir).absolute()

"""``detclip2 convert``: published weights of GLIP to a model folder of this package."""

import argparse
import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from safetensors.torch import save

from detclip2.config import OWN_FOLDER, get_config
from detclip2.modeling.text.text_tower import save_without_weights
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.glip_weights import Converted, convert_glip
from detclip2.utils.model_folder import CONFIG_NAME, TEXT_FOLDER, WEIGHTS_NAME
from detclip2.utils.published_glip import PUBLISHED, fetch, how_to_get
from detclip2.utils.weights import read_published

EXAMPLE = "detclip2 convert glip_tiny_model_o365_goldg_cc_sbu.pth --output glip-t"
REPORT_NAME = "converted.json"
# Channels of Swin's first stage, and whether there is fusion -> node of configs/models/glip.py.
SIZES = {(96, True): "swin_t", (96, False): "swin_t_unfused", (192, True): "swin_l"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=f"a .pth file of GLIP, or the name of a published one: {', '.join(PUBLISHED)}",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="download the file of that name, to the parent of the output folder",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="the model folder to make"
    )
    parser.add_argument(
        "--text-model",
        default="bert-base-uncased",
        metavar="FOLDER",
        help="a folder with config.json and the tokenizer of bert-base-uncased, or its id in the "
        "hub's local cache; they are copied, its weights are in FILE (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, check against the model, and write the folder."""
    file = _published_file(args)
    converted = convert_glip(read_published(file))
    cfg = _config(converted)
    with tempfile.TemporaryDirectory() as folder:
        save_without_weights(args.text_model, folder)
        _check(converted, cfg.model, folder, file)
        shutil.copytree(folder, args.output / TEXT_FOLDER, dirs_exist_ok=True)
    LazyConfig.save(cfg, str(args.output / CONFIG_NAME))
    state = {name: tensor.contiguous() for name, tensor in converted.state.items()}
    write_whole(args.output / WEIGHTS_NAME, lambda file: file.write(save(state)))
    report = json.dumps({"used": converted.used, "unused": converted.unused}, indent=1)
    write_whole(args.output / REPORT_NAME, lambda file: file.write(report.encode()))
    print(
        f"{args.output}: {len(converted.used)} entries used, {len(converted.unused)} not needed; "
        f"{REPORT_NAME} lists them"
    )
    return 0


def _published_file(args: argparse.Namespace) -> Path:
    """The file to convert; it is fetched if the user asks for it."""
    name = str(args.file)
    if not args.fetch:
        if name in PUBLISHED and not args.file.is_file():
            raise UserError(how_to_get(name))
        return args.file
    if name not in PUBLISHED:
        raise UserError(f"--fetch: {name} is no published model; known: {', '.join(PUBLISHED)}")
    return fetch(name, args.output.parent)


def _config(converted: Converted) -> Any:
    """The config of the size that the entries are of."""
    width = converted.state["backbone.bottom_up.extractor.patch_embed.proj.weight"].shape[0]
    fused = "head.fusions.0.image_scale" in converted.state
    if (width, fused) not in SIZES:
        raise UserError(
            f"there is no published GLIP with {width} channels {'with' if fused else 'without'} "
            "fusion: expected GLIP-T (A), GLIP-T or GLIP-L"
        )
    model = get_config("models/glip.py", SIZES[width, fused])
    model.text_tower.model.update(path=OWN_FOLDER + TEXT_FOLDER, pretrained=False)
    cfg = OmegaConf.create({}, flags={"allow_objects": True})
    cfg.model = model
    cfg.inference = {"min_size": 800, "max_size": 1333}
    return cfg


def _check(converted: Converted, model: Any, text_model: str, path: Path) -> None:
    """Refuse entries that are not exactly those of the model."""
    model = copy.deepcopy(model)
    model.text_tower.model.path = text_model
    with torch.device("meta"):
        own = {name: tensor.shape for name, tensor in instantiate(model).state_dict().items()}
    found = {name: tensor.shape for name, tensor in converted.state.items()}
    names = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"{path} does not hold a whole GLIP of its size: {len(names)} entries are missing, "
            f"unknown or of another shape ({shown}): download it again"
        )

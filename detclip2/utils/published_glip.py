"""The published weights of GLIP: where their files are, and how to get them."""

from pathlib import Path
from typing import NamedTuple

from detclip2.utils.errors import UserError

_AUTHORS = "https://huggingface.co/GLIPModel/GLIP/resolve/main"
_MMDETECTION = "https://download.openmmlab.com/mmdetection/v3.0/glip"


class PublishedFile(NamedTuple):
    """A file of weights that others publish."""

    url: str
    licence: str
    sha256: str = ""
    """The beginning of its hash; "" if it is not published."""
    size: str = ""
    """As its page rounds it; "" if unknown."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def _of_authors(name: str, size: str = "") -> PublishedFile:
    licence = "the code is MIT, the page of the weights states no licence"
    return PublishedFile(f"{_AUTHORS}/{name}", licence, size=size)


def _of_mmdetection(name: str) -> PublishedFile:
    # OpenMMLab ends the names of its files with the first 8 digits of their sha256.
    digits = name.removesuffix(".pth").rpartition("-")[2]
    return PublishedFile(f"{_MMDETECTION}/{name}", "the code is Apache-2.0", digits)


PUBLISHED = {
    "glip-a": _of_authors("glip_a_tiny_o365.pth", "2.4 GB"),
    "glip-t-o365": _of_authors("glip_tiny_model_o365.pth", "3.7 GB"),
    "glip-t-o365-goldg": _of_authors("glip_tiny_model_o365_goldg.pth", "3.7 GB"),
    "glip-t": _of_authors("glip_tiny_model_o365_goldg_cc_sbu.pth", "3.7 GB"),
    "glip-t-lvis": _of_authors("glip_tiny_model_o365_goldg_cc_sbu_lvisbest.pth"),
    "glip-l": _of_authors("glip_large_model.pth", "6.9 GB"),
    "glip-l-lvis": _of_authors("glip_large_model_lvisbest.pth"),
    "glip-a-mmdet": _of_mmdetection("glip_tiny_a_mmdet-b3654169.pth"),
    "glip-t-o365-mmdet": _of_mmdetection("glip_tiny_b_mmdet-6dfbd102.pth"),
    "glip-t-o365-goldg-mmdet": _of_mmdetection("glip_tiny_c_mmdet-2fc427dd.pth"),
    "glip-t-mmdet": _of_mmdetection("glip_tiny_mmdet-c24ce662.pth"),
    "glip-l-mmdet": _of_mmdetection("glip_l_mmdet-abfe026b.pth"),
}
"""Name of a model -> its file."""


def how_to_get(name: str) -> str:
    """What to fetch for a name of `PUBLISHED`, and how to make a model folder of it."""
    file = PUBLISHED[name]
    about = [file.size, file.licence]
    about.append(f"sha256 {file.sha256}..." if file.sha256 else "no hash is published")
    return (
        f"{name} is no folder here but published weights: fetch {file.url} "
        f"({', '.join(filter(None, about))}) and run `detclip2 convert {file.name} --output {name}`"
        f", or let `detclip2 convert {name} --fetch --output {name}` do both"
    )


def fetch(name: str, folder: Path) -> Path:
    """Download the file of a name of `PUBLISHED`, unless the folder has it; return its path.

    Raises:
        UserError: it cannot be downloaded, or has another hash.
    """
    import torch  # not for a message alone

    file = PUBLISHED[name]
    path = folder / file.name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(path), file.sha256 or None)
    except (OSError, RuntimeError) as error:  # RuntimeError: of the hash
        raise UserError(f"{file.url} cannot be fetched: {error}") from error
    return path

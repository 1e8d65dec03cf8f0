"""The parts of own data, such as train and val: files that are checked and joined."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detclip2.finetuning.coco_check import OwnData, read_own_data
from detclip2.finetuning.join import common_folder, join, rebase
from detclip2.finetuning.names import FileNames, Merge, reconcile
from detclip2.utils.errors import UserError


def read_parts(
    parts: Mapping[str, Sequence[Path]],
    roots: Sequence[Path],
    exhaustive: bool = False,
    distinct: Sequence[str] = (),
) -> tuple[dict[str, OwnData], list[Merge]]:
    """The checked and joined files of each part, with equal names for equal things.

    Args:
        parts: part, such as "train", -> its json files.
        roots: the folder of the images: one, or one for each file, part by part.
        exhaustive: whether a name that a file does not list is absent from its images.
        distinct: names that are not merged.

    Returns:
        The parts, with one folder of images for all; and the names that were merged.

    Raises:
        UserError: there are more or fewer folders, or a file cannot be used.
    """
    files = [file for of_part in parts.values() for file in of_part]
    roots = [*roots] * len(files) if len(roots) == 1 else roots
    if len(roots) != len(files):
        order = " and then of ".join(f"--{part}" for part in parts)
        raise UserError(
            f"--images has {len(roots)} folders; expected one for all, or {len(files)}: one for "
            f"each file of {order}"
        )
    sets = [read_own_data(file, root, exhaustive) for file, root in zip(files, roots, strict=True)]
    used, merges = reconcile(
        [FileNames(own.file, own.names, own.synonyms) for own in sets], distinct
    )
    own, start = {}, 0
    for part, of_part in parts.items():
        at = slice(start, start + len(of_part))
        own[part], start = join(sets[at], used[at], exhaustive), at.stop
    root = common_folder([one.image_root for one in own.values()])
    return {part: rebase(one, root) for part, one in own.items()}, merges


def names_of(own: Mapping[str, OwnData]) -> list[str]:
    """The names of all parts; those of the first come first, and its spelling counts."""
    names = {name.casefold(): name for part in own.values() for name in reversed(part.names)}
    order = dict.fromkeys(name.casefold() for part in own.values() for name in part.names)
    return [names[name] for name in order]

"""Names of files in data: they do not lead out of the folder that they are relative to."""

import os
import re

from detclip2.utils.errors import UserError

_ROOT = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_SEPARATOR = re.compile(r"[/\\]")


def path_in(folder: str | os.PathLike[str], name: str) -> str:
    """The path of a file that data names, in a folder that the user names.

    An absolute name may lead into the folder. With the folder "", names are taken as they are. A
    backslash separates folders, as in files written on Windows, if the file is then found.

    Raises:
        UserError: the name leads out of the folder, by "..", as an absolute path, or by a link.
    """
    path = path_as_written(folder, name)
    if folder and not _is_below(os.path.realpath(path), os.path.realpath(folder)):
        raise _outside(folder, name, " by a link")
    return path


def path_as_written(folder: str | os.PathLike[str], name: str) -> str:
    """`path_in`, but a link may lead out of the folder.

    Raises:
        UserError: the name leads out of the folder, by ".." or as an absolute path.
    """
    path = os.path.join(folder, name)
    if "\\" in name and not os.path.exists(path):
        slashed = os.path.join(folder, name.replace("\\", "/"))
        path = slashed if os.path.exists(slashed) else path
    if folder and is_outside(name):
        plain = name.replace("\\", "/")  # Windows's names are not taken for file names elsewhere
        is_drive = os.name != "nt" and plain[1:3] == ":/"
        goal = os.path.abspath(os.path.join(folder, plain))
        if is_drive or not _is_below(goal, os.path.abspath(folder)):
            raise _outside(folder, name, "")
    return path


class FolderOfFiles:
    """A folder of files that data names, for many names at once; see `path_in`.

    Links are found by one listing of each folder, instead of a look at every file.

    Args:
        folder: the folder; with "", names are taken as they are.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._real = os.path.realpath(self.folder)
        self._links: dict[str, frozenset[str]] = {}

    def path(self, name: str) -> str:
        """The path of a file.

        Raises:
            UserError: as `path_in`.
        """
        path = path_as_written(self.folder, name)
        if self.folder:
            parent, file = os.path.split(path)
            if parent not in self._links:
                if not _is_below(os.path.realpath(parent), self._real):
                    raise _outside(self.folder, name, " by a link")
                self._links[parent] = _links_of(parent)
            if file in self._links[parent]:
                return path_in(self.folder, name)
        return path


def is_outside(name: str) -> bool:
    """Whether a relative or absolute name, as it is written, may lead out of any folder."""
    has_root = os.path.splitdrive(name)[0] or _ROOT.match(name)
    return bool(has_root or _climbs(name))


def _climbs(name: str) -> bool:
    return ".." in _SEPARATOR.split(name)


def _links_of(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:  # reported when its files are read
        return frozenset()


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _outside(folder: str | os.PathLike[str], name: str, how: str) -> UserError:
    return UserError(
        f"{name[:200]!r} leads out of the folder {os.fspath(folder)}{how}, and is not read: names "
        "in data stay inside the folder that they are relative to"
    )

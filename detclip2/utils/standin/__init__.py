"""The stand-in for Detectron2, used if ``import detectron2`` finds nothing else.

``import detclip2`` calls `offer`. An installed Detectron2 always has priority, because the
stand-in's finder is the last one of ``sys.meta_path``.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from detclip2.utils.repository import repository_folder

# Processes that multiprocessing starts with "spawn" or "forkserver" get their parent's sys.path
# before they unpickle. There the module `detectron2` of this folder imports detclip2, then the
# Detectron2 that is found.
NEW_PROCESS = str(Path(__file__).parent / "new_process")


class StandInFinder:
    """A meta path finder for the package ``detectron2`` in ``compat/``."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the stand-in; None for all other modules."""
        package = repository_folder("compat") / "detectron2"
        if name != "detectron2" or not package.is_dir():
            return None
        return spec_from_file_location(
            name, package / "__init__.py", submodule_search_locations=[str(package)]
        )


class _EmptyFinder:
    """A path entry finder that finds nothing."""

    @staticmethod
    def find_spec(name: str, target: ModuleType | None = None) -> ModuleSpec | None:
        return None


def offer() -> None:
    """Append the finder to ``sys.meta_path``, and prepare child processes."""
    if StandInFinder not in sys.meta_path:
        sys.meta_path.append(StandInFinder)
    if NEW_PROCESS not in sys.path:
        sys.path.append(NEW_PROCESS)
    # In this process the finder does the work.
    sys.path_importer_cache[NEW_PROCESS] = _EmptyFinder

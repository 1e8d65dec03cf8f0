"""Model folders on the Hugging Face Hub: fetched when they are asked for, then used from the cache.

Only data is fetched, never Python, pickles or their like; what a folder may hold is in
docs/trust.md.
"""

import os
import re
from pathlib import Path

from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED

SCHEME = "hub://"
"""Before the id of a repository, where a plain text means a file: ``hub://OWNER/NAME@REVISION``."""
FETCHED = ("*.yaml", "*.json", "*.safetensors", "*.txt", "*.md", "*.gz")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_folder(model: str | os.PathLike[str], revision: str | None = None) -> str | Path:
    """The folder of a model, or the name of one that ships, which stays a name.

    A folder that exists is used as it is. Anything of the form OWNER/NAME else is a repository of
    the hub, whose copy in the cache is used if there is one, without a look at the network.

    Args:
        model: the name of a model that ships, a folder, or the id of a repository.
        revision: of the repository: a branch, a tag, or a commit, which never changes.

    Raises:
        UserError: as `fetched`; or there is a revision and no repository.
    """
    may_be_id = model not in SHIPPED and not os.path.isdir(model)
    if may_be_id and isinstance(model, str) and _ID.fullmatch(model):
        return fetched(model, revision)
    if revision is not None:
        raise UserError(f"{model}: revision={revision!r} is of a repository OWNER/NAME of the hub")
    return model if isinstance(model, str) else Path(model)


def from_address(address: str) -> Path:
    """The folder of a model in the form ``hub://OWNER/NAME`` or ``hub://OWNER/NAME@REVISION``.

    Raises:
        UserError: it has another form; and as `fetched`.
    """
    repository, _, revision = address.removeprefix(SCHEME).partition("@")
    if not _ID.fullmatch(repository):
        raise UserError(f"{address}: expected {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION")
    return fetched(repository, revision or None)


def fetched(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository in the hub's cache, fetched if it is not there.

    Args:
        repository: OWNER/NAME.
        revision: a branch, a tag or a commit; None: main.

    Raises:
        UserError: it is not in the cache, and there is no such repository or no way to the hub.
    """
    from huggingface_hub import snapshot_download  # takes half a second
    from huggingface_hub.errors import (
        GatedRepoError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(only_cache: bool) -> Path:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=[*FETCHED],
                local_files_only=only_cache,
            )
        )  # fmt: skip

    name = f"{SCHEME}{repository}{'' if revision is None else f'@{revision}'}"
    try:
        return fetch(only_cache=True)
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        pass
    try:
        return fetch(only_cache=False)
    except GatedRepoError:
        reason = "its authors ask for a login (`hf auth login`), and to accept their terms"
    except RepositoryNotFoundError:
        reason = "there is no such repository, or it is private (`hf auth login`)"
    except RevisionNotFoundError:
        reason = "the repository has no such revision"
    except Exception as error:  # of networks: many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"it is not in the cache, and the hub cannot be reached ({first})"
    raise UserError(f"{name}: {reason}")

"""A cache of the Hugging Face Hub on the disk, and a hub whose repositories are in it."""

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace


def add_snapshot(cache, repository, folder, branch="main"):
    """Put a folder into the cache as its own library does, blobs and links; the commit."""
    commit = hashlib.sha1(f"{repository}{branch}{sorted(os.listdir(folder))}".encode()).hexdigest()
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            blob = storage / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            link = snapshot / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs").mkdir(exist_ok=True)
    (storage / "refs" / branch).write_text(commit)
    return commit


class FakeHub:
    """Stands for HfApi: what is uploaded lies in a cache."""

    def __init__(self, cache):
        self.cache = cache
        self.repositories = {}
        self.uploads = []

    def __call__(self, **_):
        return self

    def create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        self.repositories.setdefault(repo_id, private)

    def upload_folder(self, repo_id, folder_path, revision, commit_message):
        if repo_id not in self.repositories:
            raise OSError("401: there is no such repository")
        self.uploads.append(sorted(path.name for path in Path(folder_path).iterdir()))
        oid = add_snapshot(self.cache, repo_id, folder_path, revision or "main")
        return SimpleNamespace(oid=oid)

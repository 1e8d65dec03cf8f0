"""Build the documentation site: python scripts/build_docs.py [--serve]

Pages are in many folders of the repository, and their links work on a code host. They are copied to
build/docs at the same relative places, so that the same links work on the site in build/site.
Every warning fails the build: a dead link, an unknown name, an argument that a docstring describes
and the function does not have.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    "*.md",
    "compat/README.md",
    "detclip2/resources/**/README.md",
    "docs/**/*.md",
    "projects/**/*.md",
)
LINKED_FILES = (
    "CITATION.cff",
    "LICENSE",
    "docs/**/*.jpg",
    "docs/**/*.png",
    "projects/**/*.jpg",
    "projects/**/*.png",
    "projects/*/configs/**/*.py",
)
COLOR = re.compile(r"\x1b\[[\d;]*m")
# Zensical counts problems of pages only. Those of docstrings are lines of its log.
DOCSTRING_PROBLEM = re.compile(r"^(griffe|mkdocstrings)", re.MULTILINE)


def copy_pages(source: Path, target: Path) -> None:
    """Copy pages, and the files that they link to, to the same places below `target`."""
    shutil.rmtree(target, ignore_errors=True)
    for pattern in (*PAGES, *LINKED_FILES):
        for path in source.glob(pattern):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def build(root: Path) -> int:
    """Build the site of the repository at `root`; 1 after any warning."""
    copy_pages(root, root / "build" / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = COLOR.sub("", done.stdout)
    print(log)
    return int(done.returncode != 0 or DOCSTRING_PROBLEM.search(log) is not None)


def main(arguments: list[str] | None = None) -> int:
    """Build or serve the site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="serve the site on this machine")
    if not parser.parse_args(arguments).serve:
        return build(ROOT)
    copy_pages(ROOT, ROOT / "build" / "docs")
    return subprocess.call([sys.executable, "-m", "zensical", "serve"], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())

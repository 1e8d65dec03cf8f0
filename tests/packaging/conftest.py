"""A wheel of this checkout in a virtual environment without access to the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The folders that a wheel or source archive is built from.
BUILT_FROM = ("detclip2", "compat", "configs", "projects")
# Packages of the test environment that the new environment must not see.
OWN = ("detclip2", "detectron2", "__editable__")


def source_files(folders: tuple[str, ...] = BUILT_FROM) -> list[Path]:
    """The files of these folders of the repository, and those beside them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to the project is not known")
    paths = map(Path, done.stdout.splitlines())
    kept = (path for path in paths if path.parts[0] in folders or len(path.parts) == 1)
    return [path for path in kept if (ROOT / path).is_file()]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel."""

    python: Path
    site_packages: Path

    def run(self, folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder; its first word is of bin/."""
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DETCLIP2_"))
        }
        program, *arguments = map(str, command)
        return subprocess.run(
            [self.python.parent / program, *arguments],
            cwd=folder,
            env=environment | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    def script(self, folder: Path, code: str, name: str = "script.py") -> str:
        """The output of a script that succeeds."""
        (folder / name).write_text(code)
        done = self.run(folder, "python", folder / name)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, so that building does not change the repository."""
    tree = tmp_path_factory.mktemp("tree")
    for path in source_files():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)
    return tree


def build(tree: Path, kind: str, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" with the setuptools of this environment."""
    code = (
        "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, f"build_{kind}", str(folder)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("detclip2-*")
    return built


@pytest.fixture(scope="session")
def wheel(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source_tree, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, and the third-party packages of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for entry in (Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))):
        for path in entry.iterdir():
            link = site_packages / path.name
            if not path.name.startswith(OWN) and path.suffix != ".pth" and not link.exists():
                link.symlink_to(path)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *options, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Installed(folder / "bin" / "python", site_packages)

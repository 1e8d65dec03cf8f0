"""The content of wheels and source archives."""

import tarfile
import zipfile
from pathlib import Path

import detclip2
from tests.packaging.conftest import build, source_files

CARRIED = (
    "compat/detectron2/",
    "configs/",
    "projects/DetCLIPv2/configs/",
    "projects/GLIPv2/configs/",
)


def test_the_wheel_has_every_file_of_the_package_and_the_folders_it_carries(wheel: Path):
    assert wheel.name == f"detclip2-{detclip2.__version__}-py3-none-any.whl"
    expected = set()
    for path in (file.as_posix() for file in source_files()):
        if path.startswith("detclip2/"):
            expected.add(path)
        elif path.startswith(CARRIED):
            expected.add(f"detclip2/{path}")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "detclip2 = detclip2.cli:main" in archive.read(entry_points).decode()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert names == expected
    assert {
        "detclip2/configs/models/detclipv2.py",
        "detclip2/compat/detectron2/__init__.py",
        "detclip2/resources/models/photo_nano/model.safetensors",
        "detclip2/resources/models/photo_nano/ATTRIBUTION.tsv.gz",
        "detclip2/resources/text_tower_photo/tokenizer.json",
    } < names


def test_no_distribution_is_called_detectron2(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith("detectron2")]


def test_a_wheel_can_be_built_from_the_source_archive(source_tree: Path, tmp_path: Path):
    archive = build(source_tree, "sdist", tmp_path)
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    needed = {path.as_posix() for path in source_files() if path.parts[0] == "detclip2"}
    needed |= {p.as_posix() for p in source_files() if p.as_posix().startswith(CARRIED)}
    assert needed | {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names

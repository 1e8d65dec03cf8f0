"""Building the documentation site fails for broken references."""

import re
from pathlib import Path

import pytest

from scripts.build_docs import ROOT, build, copy_pages

CODE = '''"""A module."""


def area(width: int, height: int) -> int:
    """Area.

    Args:
        width: px.
        {argument}: px.
    """
    return width * height
'''


def repository(folder: Path, page: str = "", argument: str = "height") -> Path:
    (folder / "docs").mkdir()
    (folder / "README.md").write_text("# Home\n\n[a page](docs/page.md)\n")
    text = f"# Page\n\n[home](../README.md)\n\n{page}\n\n::: code\n"
    (folder / "docs" / "page.md").write_text(text)
    (folder / "code.py").write_text(CODE.format(argument=argument))
    config = (ROOT / "mkdocs.yml").read_text()
    (folder / "mkdocs.yml").write_text(config[: config.index("\nnav:")])
    return folder


@pytest.mark.processes
def test_pages_become_a_site_without_requests_to_other_hosts(tmp_path, capfd):
    assert build(repository(tmp_path)) == 0
    site = tmp_path / "build" / "site"
    assert 'href="docs/page.html"' in (site / "index.html").read_text()
    assert "width" in (site / "docs" / "page.html").read_text()
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:link|script|img)[^>]*>", page.read_text()):
            assert "//" not in tag


@pytest.mark.parametrize(
    "wrong",
    [
        {"page": "[gone](gone.md)"},
        {"page": "[gone](../README.md#gone)"},
        {"page": "::: code.gone"},
        {"argument": "depth"},
    ],
)
@pytest.mark.processes
def test_a_broken_reference_is_an_error(tmp_path, capfd, wrong):
    assert build(repository(tmp_path, **wrong)) == 1


def test_every_page_is_copied_and_old_pages_are_deleted(tmp_path):
    target = tmp_path / "docs"
    target.mkdir()
    (target / "old.md").touch()
    copy_pages(ROOT, target)
    assert not (target / "old.md").exists()
    for page in ("README.md", "docs/install.md", "projects/DetCLIPv2/README.md"):
        assert (target / page).read_bytes() == (ROOT / page).read_bytes()
    assert not list(target.rglob(".venv"))

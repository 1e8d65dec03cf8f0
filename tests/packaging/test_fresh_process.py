"""Imports of a fresh process, and its error without Detectron2."""

import os
import subprocess
import sys
from pathlib import Path

from detclip2.cli import COMMANDS


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )


def test_import_and_help_load_no_framework():
    code = """
import contextlib, sys
from detclip2.cli import main
with contextlib.suppress(SystemExit):
    main(["--help"])
heavy = {"torch", "transformers", "detectron2", "timm", "cv2", "numpy", "rich"}
sys.exit(f"loaded: {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


HIDE_DETECTRON2 = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")
sys.meta_path.insert(0, Hide())
"""


def test_without_detectron2_the_command_line_says_what_to_install(tmp_path: Path):
    image = tmp_path / "a.png"
    image.touch()  # paths are checked first
    arguments = ["predict", str(image), "--names", "cat", "--output", str(tmp_path / "output")]
    done = run_python(
        f"{HIDE_DETECTRON2}\nfrom detclip2.cli import main\nsys.exit(main({arguments!r}))"
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "install detclip2 again" in line


def test_without_detectron2_the_library_says_what_to_install():
    done = run_python(f"{HIDE_DETECTRON2}\nfrom detclip2 import OpenVocabularyPredictor")
    assert done.returncode == 1
    assert "install detclip2 again" in done.stderr.strip().splitlines()[-1]

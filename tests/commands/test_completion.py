"""``detclip2 --print-completion``: what a shell completes."""

import subprocess
import sys

import pytest

from detclip2.cli import main


def test_a_shell_completes_commands_and_options(capsys, tmp_path):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as exit_of_parser:
        main(["--print-completion", "bash"])
    assert exit_of_parser.value.code == 0
    (tmp_path / "completion.sh").write_text(capsys.readouterr().out)
    for typed, expected in [("cal", "calibrate"), ("calibrate --prec", "--precision")]:
        words = ["detclip2", *typed.split()]
        program = (
            f"source completion.sh; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            "_shtab_detclip2; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


def test_without_its_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 2
    assert "pip install shtab" in capsys.readouterr().err

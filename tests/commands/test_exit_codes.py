"""What the command line returns where its output has no reader."""

import argparse
import os

import pytest

from detclip2 import cli


def test_output_that_nothing_reads_ends_a_command_in_silence(monkeypatch, capsys):
    """As after `| head`; another broken pipe is not hidden."""

    def command(run):
        monkeypatch.setattr(cli, "_parse", lambda argv: argparse.Namespace(run=run))

    def other_pipe(args):
        raise BrokenPipeError

    command(other_pipe)
    with pytest.raises(BrokenPipeError):
        cli.main([])
    reader, writer = os.pipe()
    os.close(reader)
    command(lambda args: print("a line"))
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        assert cli.main([]) == 141
    assert capsys.readouterr().err == ""

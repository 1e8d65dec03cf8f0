import os
import platform
import subprocess
import sys

import pytest

from detclip2.engine import runtime

FREED_PART = """
import sys
import torch
from detclip2.engine.runtime import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
if sys.argv[1] == "keep":
    assert keep_freed_memory()
small = resident()
tensor = torch.ones(2**26)  # 256 MiB, every page of it touched
large = resident()
del tensor
print((large - resident()) / (large - small))
"""


def freed_part(mode):
    """The share of a large tensor's memory that the process returns when it is freed."""
    # glibc's default, without the machine's settings.
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    command = [sys.executable, "-c", FREED_PART, mode]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.processes
def test_freed_memory_is_kept():
    assert freed_part("keep") < 0.05
    assert freed_part("default") > 0.9


def test_other_c_libraries_are_not_configured(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.keep_freed_memory() is False

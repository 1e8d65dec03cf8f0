import os
import platform
import subprocess
import sys

import pytest

from detclip2.engine import runtime

FREED_PARTS = """
import torch
from detclip2.engine.runtime import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
def freed_part():
    small = resident()
    tensor = torch.ones(2**26)  # 256 MiB, every page of it touched
    large = resident()
    del tensor
    return (large - resident()) / (large - small)
by_default = freed_part()
assert keep_freed_memory()
print(by_default, freed_part())
"""


def freed_parts():
    """The shares of a large tensor's memory that a process returns when it is freed.

    First by default, then with `keep_freed_memory`.
    """
    # glibc's default, without the machine's settings.
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    command = [sys.executable, "-c", FREED_PARTS]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return map(float, answer.stdout.split())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.processes
def test_freed_memory_is_kept():
    by_default, kept = freed_parts()
    assert by_default > 0.9
    assert kept < 0.05


def test_other_c_libraries_are_not_configured(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.keep_freed_memory() is False

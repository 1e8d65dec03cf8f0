"""Memory of the process, where training on a CPU would otherwise ask for it anew at every step."""

import ctypes
import platform

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed, instead of handing it back to the system.

    glibc maps large tensors afresh each time, and the system clears every page of them: half of
    the time of a training step on a CPU went there. The process's memory stays at its peak.

    Returns:
        Whether the allocator is glibc's, the only one this is for.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        (mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 256 * 2**20))
    )

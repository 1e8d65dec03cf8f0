"""Processes that a command starts."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Make this process end when the one that started it is killed, instead of waiting forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

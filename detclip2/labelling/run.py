"""The run of a part: what is left of its images, to the journal; on one device or several."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np

from detclip2.data.io.image_item import ImageItem
from detclip2.data.skips import SkipCounter
from detclip2.labelling.detector import Detector, DetectorSettings
from detclip2.labelling.image_list import ImageList
from detclip2.labelling.journal import FOLDER, Journal, Journals
from detclip2.labelling.part import Part
from detclip2.labelling.plan import IMAGES
from detclip2.utils.errors import UserError
from detclip2.utils.processes import end_with_parent

Advance = Callable[[int], Any]
"""Called with the number of images that are done since the last call."""
_SECONDS_BETWEEN_LOOKS = 1.0


def remaining(output: Path, part: Part, retry_skipped: bool = False) -> np.ndarray:
    """The numbers of the images of a part that no journal has.

    Args:
        output: the folder of the run.
        part: the part.
        retry_skipped: also those that were skipped.
    """
    images = ImageList(output / IMAGES)
    done = Journals(output, len(images)).done(retry_skipped)
    return (~done[part.index :: part.count]).nonzero()[0] * part.count + part.index


def label_part(
    output: Path,
    part: Part,
    make_detector: Callable[[], Detector],
    retry_skipped: bool = False,
    advance: Advance = lambda number: None,
) -> None:
    """Do what is left of a part.

    Args:
        output: the folder of the run, with its plan.
        part: the part; no other process may be at work on its images.
        make_detector: called if something is left.
        retry_skipped: try again what was skipped before.
        advance: is called after each image.

    Raises:
        UserError: another process is at work on these images; nothing more can be written.
    """
    images = ImageList(output / IMAGES)
    Journals(output, len(images)).check_free(part)
    with Journal(output / FOLDER / part.journal) as journal:
        left = remaining(output, part, retry_skipped)
        if len(left) == 0:
            return
        skips = SkipCounter(str(part))
        for entry in make_detector().entries(_numbered(images, left)):
            journal.add(entry)
            if kind := entry.get("skipped"):
                skips.add(kind, entry["reason"])
            advance(1)


def _numbered(images: ImageList, numbers: np.ndarray) -> Iterator[tuple[int, ImageItem]]:
    return ((number, images[number]) for number in numbers.tolist())


def label_on_devices(
    output: Path,
    part: Part,
    settings: DetectorSettings,
    devices: Sequence[str],
    retry_skipped: bool = False,
    advance: Advance = lambda number: None,
) -> None:
    """Do what is left of a part, with a process for each device.

    A process that ends early does not stop the others; what it has not done is left for the next
    run.

    Args:
        output: the folder of the run, with its plan.
        part: the part.
        settings: of the detectors.
        devices: one process each; a device may be given several times.
        retry_skipped: try again what was skipped before.
        advance: is called as images are done.

    Raises:
        UserError: as `label_part`; a process died.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    processes = [
        context.Process(
            target=_work,
            args=(output, small, settings, device, retry_skipped, messages),
            daemon=True,
        )
        for small, device in zip(part.split(len(devices)), devices, strict=True)
    ]
    for process in processes:
        process.start()
    errors: list[str] = []
    running = True
    while running:
        running = any(process.is_alive() for process in processes)
        try:
            while True:
                message = messages.get(timeout=_SECONDS_BETWEEN_LOOKS if running else 0.1)
                if isinstance(message, int):
                    advance(message)
                else:
                    errors.append(message)
        except Empty:
            pass
    for process, device in zip(processes, devices, strict=True):
        process.join()
        if process.exitcode:
            errors.append(
                f"the process on {device} died (exit code {process.exitcode}); what it has done is "
                "kept: repeat the command to continue"
            )
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))


def _work(
    output: Path,
    part: Part,
    settings: DetectorSettings,
    device: str,
    retry_skipped: bool,
    messages: Any,
) -> None:
    """One process of `label_on_devices`."""
    import torch

    end_with_parent()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)  # as many processes as the user wants
    try:
        label_part(output, part, lambda: settings.build(device), retry_skipped, messages.put)
    except UserError as error:
        messages.put(str(error))
    except KeyboardInterrupt:  # a terminal sends it to all processes; the first one reports it
        return

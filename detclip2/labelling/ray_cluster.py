"""A run over a Ray cluster, with Ray Data: workers detect, and this process writes the journal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detclip2.labelling.detector import DetectorSettings
from detclip2.labelling.image_list import ImageList
from detclip2.labelling.journal import FOLDER, Journal, Journals, line_of
from detclip2.labelling.part import Part
from detclip2.labelling.plan import IMAGES
from detclip2.labelling.run import remaining
from detclip2.utils.errors import UserError
from detclip2.utils.json_text import parse_json

JOURNAL = "ray.jsonl"
IMAGES_OF_A_TASK = 64
"""What a worker that dies has to do again at most."""


def label_with_ray(
    address: str,
    output: Path,
    settings: DetectorSettings,
    workers: int | None = None,
    retry_skipped: bool = False,
    advance: Callable[[int], Any] = lambda number: None,
) -> None:
    """Do what is left of a run, with all GPUs of a Ray cluster, or its cores if it has none.

    Ray starts a worker that dies anew and gives its images to it or another one; what it had
    returned is in the journal already. All workers see the images, the model and `output` under the
    same paths, and have detclip2 installed.

    Args:
        address: of the cluster, as for ``ray.init``: "auto", "local", "host:port", "ray://...".
        output: the folder of the run, with its plan.
        settings: of the detectors.
        workers: number of workers; None: one for each GPU, or each core.
        retry_skipped: try again what was skipped before.
        advance: is called as images are done.

    Raises:
        UserError: Ray is not installed or the cluster cannot be reached; another process is at work
            on these images; nothing more can be written.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise UserError("--ray needs Ray: pip install 'detclip2[ray]'") from None
    images = ImageList(output / IMAGES)
    every = Part(0, 1)
    Journals(output, len(images)).check_free(every)
    with Journal(output / FOLDER / JOURNAL) as journal:
        left = remaining(output, every, retry_skipped)
        if len(left) == 0:
            return
        try:
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        except Exception as error:  # Ray raises Exception itself where a cluster does not start
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--ray {address}: there is no cluster to be reached: {reason}"
            ) from None
        try:
            _run(ray, output, settings, workers, left, journal, advance)
        finally:
            ray.shutdown()


def _run(
    ray: Any,
    output: Path,
    settings: DetectorSettings,
    workers: int | None,
    left: np.ndarray,
    journal: Journal,
    advance: Callable[[int], Any],
) -> None:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)))
    blocks = np.array_split(left, max(workers, -(-len(left) // IMAGES_OF_A_TASK)))
    ray.data.DataContext.get_current().enable_progress_bars = False
    lines = ray.data.from_numpy([block for block in blocks if len(block)]).map_batches(
        _Worker,
        fn_constructor_args=(str(output.absolute()), settings, None if gpus else "cpu"),
        batch_size=None,
        batch_format="numpy",
        concurrency=workers,
        num_gpus=1 if gpus else 0,
        num_cpus=1,
    )
    undone = np.zeros(left.max() + 1, dtype=bool)
    undone[left] = True
    try:
        for batch in lines.iter_batches(batch_size=None, batch_format="numpy"):
            for line in batch["line"]:
                # A task may run twice, if its worker died after it; its images count once.
                number = parse_json(line)["image"]
                if undone[number]:
                    undone[number] = False
                    journal.add_line(bytes(line))
                    advance(1)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"Ray has stopped ({reason}); what is done is kept: repeat the command to continue"
        ) from error
    if missing := int(undone.sum()):
        raise UserError(f"Ray has returned nothing for {missing:,} images: repeat the command")


class _Worker:
    """A process of the cluster, with the model."""

    def __init__(self, output: str, settings: DetectorSettings, device: str | None) -> None:
        self.images = ImageList(Path(output) / IMAGES)
        self.detector = settings.build(device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The lines of the entries of some images, by number."""
        numbers = batch["data"].tolist()
        entries = self.detector.entries((number, self.images[number]) for number in numbers)
        lines = np.empty(len(numbers), dtype=object)
        lines[:] = [line_of(entry) for entry in entries]
        return {"line": lines}

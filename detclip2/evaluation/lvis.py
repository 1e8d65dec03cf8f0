"""LVIS's average precision, standard and Fixed, in bounded memory."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import IO, Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from detclip2.data.io.coco_values import id_of
from detclip2.evaluation.checks import check_masks
from detclip2.evaluation.detections import (
    DETECTION,
    MASKED,
    BestOfClasses,
    ByClass,
    Detections,
    best,
    detections_of,
    gather,
)
from detclip2.evaluation.lvis_ap import METRICS, Annotations, average_precision, read_lvis_json
from detclip2.evaluation.mask_file import MaskFile
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)

STANDARD, FIXED = "bbox", "bbox_fixed"
_OF_MASKS = {STANDARD: "segm", FIXED: "segm_fixed"}
_TITLES = {
    STANDARD: "standard AP",
    FIXED: "Fixed AP",
    "segm": "standard AP, masks",
    "segm_fixed": "Fixed AP, masks",
}
_RESULTS = {
    STANDARD: "lvis_instances_results.json",
    FIXED: "lvis_fixed_ap_instances_results.json",
}
# An evaluated image, and the number of detections that the model gave.
_IMAGE = np.dtype([("id", np.int64), ("given", np.int64)])


class LVISFixedAPEvaluator(StreamingEvaluator):
    """Standard and Fixed AP of boxes and masks: AP, AP50, AP75, APs, APm, APl, APr, APc, APf.

    Standard AP keeps the best 300 detections of an image over all classes, so better detections of
    one class can displace good ones of another. Fixed AP (Dave et al., "Evaluating large-vocabulary
    object detectors: the devil is in the details", arXiv 2102.01066) keeps the best 10,000 of each
    class over the data set, with no limit per image; the tables of DetCLIPv2, GLIP and MDETR show
    it. The means are over IoU 0.5 to 0.95.

    It replaces Detectron2's LVISEvaluator. Each detection that a protocol keeps takes 32 bytes, and
    its mask waits on the disk. Equal scores are ordered by image id and box, so results do not
    depend on the order of images, batches or processes.

    Args:
        dataset_name: its metadata has a ``json_file`` in LVIS's format.
        tasks: ("bbox",), or None for the same; ("bbox", "segm") for masks too.
        distributed: gather the detections of all processes, through files in `output_dir`;
            processes other than the main one return None.
        output_dir: folder for results: detections in LVIS's format for each protocol, and
            "results.json" with the protocol and the numbers. None writes nothing.
        max_dets_per_image: for the standard AP; None for LVIS's 300.
        max_dets_per_class: for the Fixed AP.

    Raises:
        UserError: the json is missing, not in LVIS's format, or lacks a key; `tasks` are others;
            with masks, an object has none that can be read.
    """

    best_metric = "bbox_fixed/AP"

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        max_dets_per_class: int = 10_000,
    ) -> None:
        if tasks is not None and list(tasks) not in (["bbox"], ["bbox", "segm"]):
            raise UserError(
                "LVISFixedAPEvaluator evaluates boxes, tasks=['bbox'], or boxes and masks, "
                f"tasks=['bbox', 'segm'], not {list(tasks)}"
            )
        self._with_masks = tasks is not None and "segm" in tasks
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            raise UserError(f"data set {dataset_name!r} has no json_file: register it before")
        self._json_file: str = PathManager.get_local_path(str(metadata.json_file))
        masks_of = self._json_file if self._with_masks else None
        self._annotations = Annotations(read_lvis_json(self._json_file), masks_of)
        self._class_of = _class_positions(metadata, self._annotations)
        self._dataset_name = dataset_name
        self._max_dets = 300 if max_dets_per_image is None else max_dets_per_image
        self._max_dets_of_class = max_dets_per_class
        protocol = Protocol(
            dataset_name,
            annotations_of(self._json_file),
            f"{self._max_dets} an image (standard), {self._max_dets_of_class} a class (Fixed)",
            f"standard and Fixed AP of boxes{' and masks' * self._with_masks}, IoU 0.5:0.95",
        )
        StreamingEvaluator.__init__(
            self, protocol, self._annotations.images, self._json_file, distributed, output_dir
        )
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._images: list[tuple[int, int]] = []
        self._best_of_images: list[Detections] = []
        self._dtype = MASKED if self._with_masks else DETECTION
        self._best_of_classes = BestOfClasses(self._max_dets_of_class, dtype=self._dtype)
        self._masks = MaskFile(self._folder, self._distributed) if self._with_masks else None

    def add(self, key: Any, instances: Instances) -> None:
        """Add the detections of an image.

        Raises:
            UserError: a class has no category in the annotations; masks are to be evaluated, and
                the model gives none.
        """
        found = detections_of(instances, key, self._dtype)
        self._use_positions(found)
        if self._masks is not None:
            check_masks(instances)
            found["mask"] = self._masks.add(instances.pred_masks.numpy())
        self._images.append((key, len(found)))
        self._best_of_images.append(best(found, self._max_dets))
        self._best_of_classes.add(found)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Evaluate with both protocols.

        Returns:
            "bbox" (standard) and "bbox_fixed", and of masks "segm" and "segm_fixed": percent by
            metric, NaN without boxes to find; None on processes other than the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        parts = {
            "images": np.array(self._images, _IMAGE),
            STANDARD: np.concatenate([np.empty(0, self._dtype), *self._best_of_images]),
            FIXED: self._best_of_classes.kept(),
        }
        for key in (STANDARD, FIXED):
            parts[key] = parts[key][np.argsort(parts[key]["category"], kind="stable")]
        gathered = {key: self._gather_parts(key, parts.pop(key)) for key in list(parts)}
        if self._masks is not None:
            self._masks.share()
        if self._distributed and not comm.is_main_process():
            return None
        images = np.concatenate(gathered["images"])
        self._check_images(images)
        num_classes = len(self._annotations)
        detections = {
            STANDARD: ByClass(gathered[STANDARD], num_classes),
            FIXED: ByClass(gathered[FIXED], num_classes, self._max_dets_of_class),
        }
        results = {k: average_precision(self._annotations, d) for k, d in detections.items()}
        if self._masks is not None:
            for key, of_protocol in detections.items():
                metrics = average_precision(self._annotations, of_protocol, self._masks)
                results[_OF_MASKS[key]] = metrics
        self.protocol = self._protocol_of(images)
        logger.info("%s", self.protocol)
        logger.info("%s", table(results))
        self._write(detections, results)
        return results

    def _use_positions(self, found: Detections) -> None:
        """Replace the model's classes by positions in the annotations' sorted category ids."""
        classes = found["category"]
        wrong = (classes < 0) | (classes >= len(self._class_of))
        if wrong.any() or (self._class_of[classes] < 0).any():
            known = np.flatnonzero(self._class_of >= 0)
            name = classes[wrong | ~np.isin(classes, known)][0]
            raise UserError(
                f"a detection is of class {name}, for which {self._json_file} has no category: "
                f"the model detects other names than those of {self._dataset_name!r}"
            )
        found["category"] = self._class_of[classes]

    def _gather_parts(self, name: str, part: Any) -> list[Any]:
        return gather(part, self._folder, f"lvis_{name}") if self._distributed else [part]

    def _check_images(self, images: Any) -> None:
        ids, counts = np.unique(images["id"], return_counts=True)
        if len(ids) == 0:
            raise UserError(
                f"no image of {self._dataset_name!r} was evaluated: the test loader is empty"
            )
        if counts.max() > 1:
            raise UserError(
                f"image {ids[counts.argmax()]} was evaluated {counts.max()} times: the test "
                "loader must give each image once"
            )
        missing = len(self._annotations.images) - len(ids)
        if missing:
            logger.warning(
                "%d of the %d images in %s were not evaluated; their objects count as not found",
                missing,
                len(self._annotations.images),
                self._json_file,
            )

    def _protocol_of(self, images: Any) -> Protocol:
        """The protocol with the number of images and the most detections of an image."""
        detections = self.protocol.detections.partition(";")[0]
        most = int(images["given"].max())
        return replace(
            self.protocol,
            dataset=f"{self._dataset_name}, {len(images)} images",
            detections=f"{detections}; the model gave up to {most} an image",
        )

    def _write(
        self, detections: Mapping[str, ByClass], results: Mapping[str, Mapping[str, float]]
    ) -> None:
        if self._folder is None:
            return
        for key, of_classes in detections.items():
            path = self._folder / _RESULTS[key]
            ids = self._annotations.category_ids
            write = partial(write_detections, detections=of_classes, category_ids=ids)
            write_whole(path, partial(write, masks=self._masks))
            logger.info("%s: detections of the %s", path, _TITLES[key])
        self.write("results.json", results)


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table of results in percent, one protocol per line."""
    width = max(len(_TITLES[key]) for key in results) + 1
    head = " " * width + "".join(f"{name:>7}" for name in METRICS)
    rows = [
        f"{_TITLES[key]:{width}}" + "".join(f"{_shown(values[name]):>7}" for name in METRICS)
        for key, values in results.items()
    ]
    return "\n".join([head, *rows])


def _shown(percent: float) -> str:
    return "-" if math.isnan(percent) else f"{percent:.2f}"


def write_detections(
    file: IO[bytes],
    detections: ByClass,
    category_ids: Sequence[int],
    masks: MaskFile | None = None,
) -> None:
    """Write LVIS's and COCO's results: a list of image_id, category_id, bbox (XYWH px), score.

    With `masks` also segmentation, as RLE.
    """
    file.write(b"[")
    is_first = True
    for index, category_id in enumerate(category_ids):
        found = detections[index]
        columns = (found["image"].tolist(), found["box"].tolist(), found["score"].tolist())
        entries = [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id, box, score in zip(*columns, strict=True)
        ]
        if masks is not None:
            for entry, place in zip(entries, found["mask"].tolist(), strict=True):
                rle = masks.read(place)
                entry["segmentation"] = {**rle, "counts": rle["counts"].decode()}
        if entries:
            text = json.dumps(entries)[1:-1]  # many at once: much faster than one by one
            file.write((text if is_first else ",\n" + text).encode())
            is_first = False
    file.write(b"]")


def _class_positions(metadata: Any, annotations: Annotations) -> Any:
    """Class of the model -> position in the annotations, -1 if they lack the category."""
    position: dict[int | str, int] = {
        category_id: i for i, category_id in enumerate(annotations.category_ids)
    }
    # Without metadata, category ids are those of LVIS: from 1.
    registered = metadata.get("thing_dataset_id_to_contiguous_id") or {
        category_id: category_id - 1 for category_id in annotations.category_ids
    }
    id_to_class = {id_of(identity): index for identity, index in registered.items()}
    positions = np.full(max(id_to_class.values()) + 1, -1, np.int32)
    for category_id, index in id_to_class.items():
        positions[index] = position.get(category_id, -1)
    return positions

"""Scale results to the original resolution."""

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances

__all__ = ["detector_postprocess"]


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale boxes to an image of the given size, clip them, drop boxes without area; paste masks.

    Args:
        results: with `pred_boxes` or `proposal_boxes`, and optionally `pred_masks` (N, 1, M, M),
            probabilities in the box, which become (N, output_height, output_width) bool;
            `image_size` is the detector's.
        output_height: px.
        output_width: px.
        mask_threshold: least probability of a pixel of a mask.
    """
    height, width = results.image_size
    output = Instances((output_height, output_width), **results.get_fields())
    name = next((name for name in ("pred_boxes", "proposal_boxes") if output.has(name)), None)
    assert name is not None, "Predictions must contain boxes!"
    boxes = output.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(output.image_size)
    output.set(name, boxes)
    output = output[boxes.nonempty()]
    if output.has("pred_masks"):
        output.pred_masks = paste_masks_in_image(
            output.pred_masks[:, 0], output.get(name), output.image_size, mask_threshold
        )
    return output

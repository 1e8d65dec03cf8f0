"""Samples for training and evaluation from records of a data set."""

import copy
import logging

import numpy as np
import torch

from detectron2 import _subset
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """Reads the image of a record, augments it, and turns boxes into `instances`.

    A call returns a copy of the record with "image", a uint8 tensor (C, H, W), and in training
    "instances" instead of "annotations". Masks, keypoints and proposals are ignored.
    """

    @configurable
    def __init__(
        self,
        is_train,
        *,
        augmentations,
        image_format,
        use_instance_mask=False,
        use_keypoint=False,
        instance_mask_format="polygon",
        keypoint_hflip_indices=None,
        precomputed_proposal_topk=None,
        recompute_boxes=False,
    ):
        if use_instance_mask or use_keypoint or precomputed_proposal_topk is not None:
            raise NotImplementedError(
                _subset.not_here("DatasetMapper with masks, keypoints or proposals")
            )
        assert not recompute_boxes, "recompute_boxes needs use_instance_mask"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        logging.getLogger(__name__).info(
            "[DatasetMapper] %s: %s", "training" if is_train else "inference", augmentations
        )

    @classmethod
    def from_config(cls, cfg, is_train=True):
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP
        if crop.ENABLED and is_train:
            augmentations.insert(0, T.RandomCrop(crop.TYPE, crop.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
        }

    def __call__(self, dataset_dict):
        if "sem_seg_file_name" in dataset_dict:
            raise NotImplementedError(_subset.not_here("DatasetMapper with semantic segmentation"))
        sample = copy.deepcopy(dataset_dict)
        image = utils.read_image(sample["file_name"], format=self.image_format)
        utils.check_image_size(sample, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        annotations = sample.pop("annotations", None)
        if self.is_train and annotations is not None:
            sample["instances"] = self._instances(annotations, transforms, image.shape[:2])
        return sample

    def _instances(self, annotations, transforms, image_size):
        boxes_only = [
            {k: v for k, v in annotation.items() if k not in ("segmentation", "keypoints")}
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
        ]
        for annotation in boxes_only:
            utils.transform_instance_annotations(annotation, transforms, image_size)
        return utils.filter_empty_instances(utils.annotations_to_instances(boxes_only, image_size))

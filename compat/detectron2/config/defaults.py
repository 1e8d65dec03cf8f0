"""The keys of a yacs config and their defaults, for the parts of Detectron2 that are here."""

from .config import CfgNode

__all__: list[str] = []

_MODEL = {
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "WEIGHTS": "",
    "DEVICE": "cuda",
    "PIXEL_MEAN": [103.530, 116.280, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
    "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
    "ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64, 128, 256, 512]],
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "ANGLES": [[-90, 0, 90]],
        "OFFSET": 0.0,
    },
}

_INPUT = {
    "FORMAT": "BGR",
    "MIN_SIZE_TRAIN": (800,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    "RANDOM_FLIP": "horizontal",
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    "MASK_FORMAT": "polygon",
}

_DATASETS = {
    "TRAIN": (),
    "TEST": (),
    "PROPOSAL_FILES_TRAIN": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

_DATALOADER = {
    "NUM_WORKERS": 4,
    "ASPECT_RATIO_GROUPING": True,
    "FILTER_EMPTY_ANNOTATIONS": True,
    "SAMPLER_TRAIN": "TrainingSampler",
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
}

_SOLVER = {
    "IMS_PER_BATCH": 16,
    "REFERENCE_WORLD_SIZE": 0,
    "MAX_ITER": 40000,
    "CHECKPOINT_PERIOD": 5000,
    "BASE_LR": 0.001,
    "BASE_LR_END": 0.0,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_BIAS": None,
    "BIAS_LR_FACTOR": 1.0,
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "STEPS": (30000,),
    "GAMMA": 0.1,
    "NUM_DECAYS": 3,
    "WARMUP_METHOD": "linear",
    "WARMUP_FACTOR": 0.001,
    "WARMUP_ITERS": 1000,
    "RESCALE_INTERVAL": False,
    "CLIP_GRADIENTS": {
        "ENABLED": False,
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    "AMP": {"ENABLED": False},
}

_TEST = {
    "EVAL_PERIOD": 0,
    "EXPECTED_RESULTS": [],
    "DETECTIONS_PER_IMAGE": 100,
    "KEYPOINT_OKS_SIGMAS": [],
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}

_C = CfgNode(
    {
        "VERSION": 2,
        "MODEL": _MODEL,
        "INPUT": _INPUT,
        "DATASETS": _DATASETS,
        "DATALOADER": _DATALOADER,
        "SOLVER": _SOLVER,
        "TEST": _TEST,
        "OUTPUT_DIR": "./output",
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        "FLOAT32_PRECISION": "",
        "VIS_PERIOD": 0,
    }
)

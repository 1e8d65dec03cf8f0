"""The model from a yacs config, and Detectron2's own predictor and trainer with it."""

import copy
import json
import subprocess
import sys
import uuid

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.modeling import build_model
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from detclip2 import modeling
from detclip2.data.datasets.detection import category_names, detection_records
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import DetectionMapper
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling import yacs
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.yacs import add_detclip_config
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import read_model_folder
from detclip2.utils.weights import load_weights

NAMES = ["red apple", "fire engine", "пёс"]


@pytest.fixture
def cfg(tmp_path):
    """The model of `tiny_config`, as a yacs config."""
    cfg = get_cfg()
    add_detclip_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    node = cfg.MODEL.DETCLIP
    node.TIMM_NAME = "resnet10t"
    node.TIMM_ARGS = [["layers", [1, 1, 1, 1]], ["channels", [8, 8, 16, 16]], ["stem_width", 8]]
    node.DROP_PATH_RATE = 0.0
    node.NORM_OUTPUTS = False
    node.EMBED_DIM = 16
    node.NUM_CONVS = 1
    node.NUM_GROUPS = 4
    node.TEXT_TOWER = "resource://text_tower_nano"
    node.TEXT_WEIGHTS = "fresh"
    node.TEXT_IDENTITY = "detclip2-nano"
    node.POOLING = "mean"
    node.INITIAL_SCALE = 5.0
    node.VOCABULARY = NAMES
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 120
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def settings(model):
    """All settings of a model besides its weights."""
    parts = {"tower": model.text_tower, "postprocess": model.postprocess, "align": model.align}
    parts.update(box_losses=model.box_losses, contrast=model.contrast, head=model.head)
    found = {
        f"{part}.{key}": value
        for part, thing in parts.items()
        for key, value in vars(thing).items()
        if isinstance(value, int | float | str | bool) and key != "training"
    }
    found["assigner"] = vars(model.box_losses.assigner)
    found["thresholds"] = vars(model.postprocess.thresholds)
    found["box2box_transform"] = tuple(model.box2box_transform.weights)
    found["head_in_features"] = model.head_in_features
    found["anchors"] = [cell.shape for cell in model.anchor_generator.cell_anchors.buffers()]
    found["pixels"] = (model.pixel_mean.shape, model.pixel_std.shape)
    return found


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_the_model_equals_that_of_the_lazy_config(cfg, tiny_model):
    model = build_model(cfg)
    assert isinstance(model, DetCLIPv2)
    assert shapes(model) == shapes(tiny_model)
    cfg.TEST.DETECTIONS_PER_IMAGE = tiny_model.postprocess.thresholds.max_detections
    assert settings(build_model(cfg)) == settings(tiny_model)
    assert torch.equal(model.pixel_mean, tiny_model.pixel_mean)
    assert torch.equal(model.pixel_std, tiny_model.pixel_std)
    assert model.input_format == cfg.INPUT.FORMAT
    # Initial values that are not random.
    for name in ("align.log_scale", "align.bias"):
        assert torch.equal(model.state_dict()[name], tiny_model.state_dict()[name])
    for tower in (model.text_tower, tiny_model.text_tower):
        named = tower.named_parameters()
        [weight] = [p for name, p in named if name.endswith("position_embedding.weight")]
        assert not weight.any()


def test_the_defaults_are_swin_t(monkeypatch, request):
    """At the paper's size, without memory for its weights."""

    def text_model(path):
        assert path == "openai/clip-vit-base-patch32"
        return CLIPTextModel(CLIPTextConfig())

    monkeypatch.setattr(yacs, "load_text_model", text_model)
    monkeypatch.setattr(yacs, "load_tokenizer", lambda path: None)
    default = get_cfg()
    add_detclip_config(default)
    default.MODEL.DEVICE = "meta"
    default.TEST.DETECTIONS_PER_IMAGE = 300
    lazy = LazyConfig.load(str(request.config.rootpath / "configs/models/detclipv2.py")).swin_t
    with torch.device("meta"):
        ours = build_model(default)
        lazy.text_tower.model = CLIPTextModel(CLIPTextConfig())
        lazy.text_tower.tokenizer = None
        theirs = instantiate(lazy)
    assert shapes(ours) == shapes(theirs)
    assert settings(ours) == settings(theirs)


def test_a_config_is_unchanged_by_dumping_and_loading(cfg, tmp_path):
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg()
    add_detclip_config(again)
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert again.MODEL.DETCLIP == cfg.MODEL.DETCLIP
    assert shapes(build_model(again)) == shapes(build_model(cfg))


def test_names_of_the_test_set_are_the_vocabulary(cfg):
    name = f"yacs_{uuid.uuid4()}"
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.DETCLIP.VOCABULARY = []
    assert build_model(cfg).vocabulary.shape == (2, 16)
    cfg.DATASETS.TEST = ()
    build_model(cfg).set_vocabulary(["later"])


def test_names_are_read_when_they_are_first_needed(cfg, tmp_path):
    """`register_coco_instances` has no names until the set is loaded."""
    name = f"yacs_{uuid.uuid4()}"
    cfg.DATASETS.TEST, cfg.MODEL.DETCLIP.VOCABULARY = (name,), []
    model = build_model(cfg)
    with pytest.raises(UserError, match=f"DATASETS.TEST.*{name}"):
        _ = model.vocabulary
    categories = [{"id": 4, "name": "a"}, {"id": 7, "name": "b"}, {"id": 9, "name": "c"}]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "set.json").write_text(json.dumps(content))
    register_coco_instances(name, {}, str(tmp_path / "set.json"), str(tmp_path))
    assert copy.deepcopy(model).vocabulary.shape == (3, 16)


def test_a_mapper_of_detectron2_is_named(cfg):
    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
    with pytest.raises(UserError, match="DetectionMapper"):
        build_model(cfg).train()([sample])


BUILD = """
{imports}
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
add_detclip_config(cfg)
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.DETCLIP.update(TIMM_NAME="resnet10t", NORM_OUTPUTS=False, DROP_PATH_RATE=0.0)
cfg.MODEL.DETCLIP.update(TEXT_TOWER="resource://text_tower_nano", TEXT_WEIGHTS="fresh")
print(type(build_model(cfg)).__name__)
"""


@pytest.mark.parametrize("module", ["detclip2.modeling.yacs", "detclip2.modeling"])
@pytest.mark.processes
def test_nothing_else_need_be_imported(module):
    """In a new process: in this one, other tests have imported and registered everything."""
    code = BUILD.format(imports=f"from {module} import add_detclip_config")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "DetCLIPv2", done.stderr


def test_every_public_name_of_modeling_is_there():
    assert all(getattr(modeling, name) is not None for name in modeling.__all__)
    with pytest.raises(AttributeError, match="no attribute 'DetCLIP'"):
        modeling.DetCLIP  # noqa: B018


@pytest.mark.processes
def test_modeling_imports_no_room_above_it():
    code = (
        "import sys; from detclip2 import modeling; "
        "[getattr(modeling, name) for name in modeling.__all__]; "
        "print(*(m for m in sys.modules if m.startswith('detclip2.') or m == 'rich'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {".".join(module.split(".")[:2]) for module in done.stdout.split()}
    assert rooms == {"detclip2.modeling", "detclip2.resources", "detclip2.utils"}


def test_weights_of_the_text_tower_are_named(cfg):
    cfg.MODEL.DETCLIP.TEXT_WEIGHTS = "any"
    with pytest.raises(UserError, match="TEXT_WEIGHTS is 'any'; expected 'pretrained' or 'fresh'"):
        build_model(cfg)


def nano(cfg, folder):
    """The shipped nano model as a yacs config, with the folder's weights."""
    cfg.MODEL.FPN.OUT_CHANNELS = 96
    node = cfg.MODEL.DETCLIP
    node.TIMM_ARGS = [
        ["layers", [1, 2, 2, 1]],
        ["channels", [32, 64, 128, 192]],
        ["stem_width", 16],
    ]
    node.EMBED_DIM, node.NUM_CONVS, node.NUM_GROUPS = 128, 2, 16
    node.SCORE_THRESHOLD = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    model = build_model(cfg)
    load_weights(model, folder / "model.safetensors")
    cfg.MODEL.WEIGHTS = str(folder / "yacs.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


def both_predict(cfg, folder, size):
    """Noise of a size in Detectron2's predictor and in ours, with the same weights."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy()
    theirs = DefaultPredictor(nano(cfg, folder))(rgb[:, :, ::-1])["instances"]
    predictor = OpenVocabularyPredictor(*read_model_folder(folder), device="cpu")
    ours = predictor(rgb, vocabulary=NAMES)
    assert len(ours) > 5
    assert theirs.image_size == ours.image_size == size
    return theirs, ours


# Sizes that are not resized, since Detectron2 does it by Pillow: see the test below.
@pytest.mark.parametrize("size", [(96, 120), (96, 160), (96, 96)])
def test_default_predictor_gives_our_detections(cfg, nano_folder, size):
    """The same weights give the same detections from a yacs config and a LazyConfig.

    Only the last bit differs: a Vocabulary normalises embeddings, which rounds them.
    """
    theirs, ours = both_predict(cfg, nano_folder, size)
    assert [NAMES[c] for c in theirs.pred_classes] == list(ours.labels)
    torch.testing.assert_close(theirs.scores, ours.scores, atol=0, rtol=1e-6)
    torch.testing.assert_close(
        theirs.pred_boxes.tensor, ours.pred_boxes.tensor, atol=1e-3, rtol=1e-6
    )


@pytest.mark.parametrize("size", [(80, 100), (64, 200), (33, 47)])
def test_detections_of_resized_images_differ_by_rounding(cfg, nano_folder, size):
    """Pillow and torch resize to the same values but for the rounding of some by a grey level."""
    theirs, ours = both_predict(cfg, nano_folder, size)
    torch.testing.assert_close(theirs.scores[:20], ours.scores[:20], atol=1e-4, rtol=0)
    assert abs(len(theirs) - len(ours)) <= 0.05 * len(ours)


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered COCO json with two images."""
    images, annotations = [], []
    for i in (1, 2):
        Image.new("RGB", (96, 64), (40 * i, 90, 160)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 64})
        annotation = {"id": i, "image_id": i, "category_id": i, "iscrowd": 0, "area": 1200}
        annotations.append({**annotation, "bbox": [10, 8, 40, 30]})
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    name = f"yacs_{uuid.uuid4()}"
    register_coco_instances(name, {}, str(tmp_path / "coco.json"), str(tmp_path))
    return name


class Trainer(DefaultTrainer):
    """The trainer that a user of Detectron2 writes to train with phrases."""

    @classmethod
    def build_train_loader(cls, cfg):
        [name] = cfg.DATASETS.TRAIN
        records = detection_records(name)
        mapper = DetectionMapper(category_names(name))
        return HybridLoader(
            detection=Source(records, mapper, cfg.SOLVER.IMS_PER_BATCH, num_workers=0)
        )


def test_default_trainer_trains(cfg, dataset, tmp_path):
    (tmp_path / "output").mkdir()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (dataset,), ()
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert "head.region.weight" in changed
    assert "text_tower.projection.weight" in changed
    [line] = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    metrics = json.loads(line)
    assert metrics["iteration"] == 1
    assert {"loss_align", "loss_box", "loss_centerness", "total_loss"} <= set(metrics)
    assert (tmp_path / "output" / "model_final.pth").is_file()

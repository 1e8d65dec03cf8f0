"""The features of a TimmBackbone against timm's own model, and the pyramid above them."""

from copy import deepcopy

import pytest
import timm
import torch
from safetensors.torch import save_file

from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.utils.errors import UserError

SWIN = "swin_tiny_patch4_window7_224"
# Swin with few channels, and with windows so small that a small image has several.
FEW = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 3}
STAGES = (1, 2, 3)  # strides 8, 16, 32


def image(height, width, batch_size=1):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(batch_size, 3, height, width, generator=generator)


def timm_model(size, state, **args):
    """timm's own model, made for one input size, with the weights of the whole model in `state`."""
    model = timm.create_model(SWIN, img_size=size, **args)
    model.load_state_dict(state)
    return model.eval()


def assert_same_features(backbone, model, x):
    with torch.no_grad():
        ours = backbone(x)
        theirs = model.forward_intermediates(
            x, indices=STAGES, intermediates_only=True, output_fmt="NCHW"
        )
    for name, expected in zip(("c3", "c4", "c5"), theirs, strict=True):
        torch.testing.assert_close(ours[name], expected)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The weights of a small Swin, also in a file."""
    torch.manual_seed(0)
    state = timm.create_model(SWIN, **FEW).state_dict()
    for tensor in state.values():  # initial zero biases would hide their order
        tensor += 0.02 * torch.randn(tensor.shape)
    path = tmp_path_factory.mktemp("weights") / "swin.safetensors"
    save_file(state, path)
    return state, str(path)


# The last stage of the larger ones has more than a window of 3 x 3.
@pytest.mark.parametrize("size", [(128, 128), (128, 160), (224, 192), (320, 128)])
def test_swin_equals_timm_at_every_size(few, size):
    state, path = few
    backbone = TimmBackbone(SWIN, norm_outputs=False, weights=path, **FEW).eval()
    assert_same_features(backbone, timm_model(size, state, **FEW), image(*size))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 96)])
def test_swin_equals_timm_if_a_stage_fits_into_one_window(few, size):
    """timm then shrinks the window, and with it a parameter, to its input size.

    A model for all sizes cannot, so ours equals timm's with its option to keep the windows.
    """
    state, path = few
    backbone = TimmBackbone(SWIN, norm_outputs=False, weights=path, **FEW).eval()
    model = timm_model(size, state, always_partition=True, **FEW)
    assert_same_features(backbone, model, image(*size))


def test_swin_t_equals_timm():
    torch.manual_seed(0)
    backbone = TimmBackbone(SWIN, norm_outputs=False).eval()
    model = timm.create_model(SWIN, img_size=(256, 288)).eval()
    state = {
        key.replace("layers_", "layers."): v for key, v in backbone.extractor.state_dict().items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"}
    assert not unexpected
    assert_same_features(backbone, model, image(256, 288))


def test_other_models_equal_timm(tmp_path):
    args = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_width": 8}
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", **args).eval()
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    path = str(tmp_path / "resnet.pth")
    backbone = TimmBackbone("resnet10t", norm_outputs=False, weights=path, **args).eval()
    x = image(64, 96)
    with torch.no_grad():
        theirs = model.forward_intermediates(x, indices=(2, 3, 4), intermediates_only=True)
        for ours, expected in zip(backbone(x).values(), theirs, strict=True):
            torch.testing.assert_close(ours, expected)


def test_checkpoints_of_swins_authors_are_read(few, tmp_path):
    """They store patch merging in the earlier stage, and buffers that timm does not have."""
    state, path = few
    old = {}
    for key, value in state.items():
        for stage in (1, 2, 3):
            key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        old[key.replace("head.fc.", "head.")] = value
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    torch.save({"model": old}, tmp_path / "old.pth")
    ours = TimmBackbone(SWIN, weights=str(tmp_path / "old.pth"), **FEW).extractor.state_dict()
    theirs = TimmBackbone(SWIN, weights=path, **FEW).extractor.state_dict()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


def test_weights_of_another_model_are_refused(few, tmp_path):
    _, path = few
    with pytest.raises(UserError, match=r"swin\.safetensors do not fit"):
        TimmBackbone(SWIN, weights=path, **{**FEW, "embed_dim": 16})
    with pytest.raises(UserError, match=r"weights .* (do not fit|does not hold)"):
        TimmBackbone("resnet10t", weights=path)
    with pytest.raises(UserError, match=r"weights .* (do not fit|does not hold)"):
        TimmBackbone(SWIN, weights=path, **{**FEW, "depths": (2, 2, 1, 2)})


def test_outputs_are_normalised_over_channels():
    backbone = TimmBackbone(SWIN, **FEW).eval()
    for features in backbone(image(64, 64)).values():
        torch.testing.assert_close(
            features.mean(1), torch.zeros_like(features[:, 0]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            features.var(1, unbiased=False), torch.ones_like(features[:, 0]), atol=1e-2, rtol=0
        )


def test_fused_attention_has_the_gradients_of_plain_attention(few):
    _, path = few
    fused = TimmBackbone(SWIN, drop_path_rate=0.0, weights=path, **FEW)
    plain = deepcopy(fused)
    attentions = [module for module in plain.modules() if hasattr(module, "fused_attn")]
    assert len(attentions) == sum(FEW["depths"])
    for attention in attentions:
        assert attention.fused_attn
        attention.fused_attn = False
    x = image(128, 160, batch_size=2)
    for backbone in (fused, plain):
        sum(c.pow(2).mean() for c in backbone(x).values()).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert any("relative_position_bias" in name for name in expected)
    for name, parameter in fused.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_gradient_checkpointing_changes_nothing(few):
    _, path = few
    gradients = []
    for checkpointing in (False, True):
        backbone = TimmBackbone(
            SWIN, drop_path_rate=0.0, gradient_checkpointing=checkpointing, weights=path, **FEW
        )
        sum(f.square().sum() for f in backbone(image(64, 64)).values()).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters()})
    assert all(g is not None for g in gradients[0].values())
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected)


@pytest.mark.parametrize("name", [SWIN, "resnet10t"])
def test_shapes_of_the_pyramid(name):
    args = FEW if name == SWIN else {}
    pyramid = feature_pyramid(TimmBackbone(name, **args), channels=8)
    shapes = {key: tuple(x.shape) for key, x in pyramid(image(96, 160, batch_size=2)).items()}
    assert shapes == {
        "p3": (2, 8, 12, 20),
        "p4": (2, 8, 6, 10),
        "p5": (2, 8, 3, 5),
        "p6": (2, 8, 2, 3),
        "p7": (2, 8, 1, 2),
    }
    declared = pyramid.output_shape()
    assert {key: (s.stride, s.channels) for key, s in declared.items()} == {
        f"p{level}": (2**level, 8) for level in range(3, 8)
    }
    assert pyramid.size_divisibility == 32


def test_a_model_without_the_strides_is_refused():
    with pytest.raises(ValueError, match=r"no features at strides \[8, 32\]"):
        TimmBackbone("vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "tinynet_e", "resnet10t", "mobilenetv4_conv_small_035"]
)
def test_the_file_of_a_whole_timm_model_is_read(name, tmp_path):
    """Entries behind the features, such as conv_head, bn2 and classifier, are ignored."""
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    # As in the config of a backbone that was made without a classifier.
    backbone = TimmBackbone(name, norm_outputs=False, weights=str(path), num_classes=0).eval()
    own = backbone.extractor.state_dict()
    behind = {key for key in whole.state_dict() if key not in own}
    assert any("weight" in key for key in behind)
    x = image(64, 96)
    theirs = timm.create_model(name, features_only=True, out_indices=_indices(name)).eval()
    theirs.load_state_dict({key: whole.state_dict()[key] for key in theirs.state_dict()})
    with torch.no_grad():
        for ours, expected in zip(backbone(x).values(), theirs(x), strict=True):
            torch.testing.assert_close(ours, expected)
    save_file({**whole.state_dict(), "classifier2.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 entries differ: unknown classifier2\.weight"):
        TimmBackbone(name, weights=str(path))


def _indices(name):
    reductions = timm.create_model(name, features_only=True).feature_info.reduction()
    return [reductions.index(stride) for stride in (8, 16, 32)]


def test_names_of_wrappers_in_a_backbones_file_are_removed(few, tmp_path):
    state, path = few
    save_file(
        {f"module.{key}": value for key, value in state.items()}, tmp_path / "ddp.safetensors"
    )
    ours = TimmBackbone(SWIN, weights=str(tmp_path / "ddp.safetensors"), **FEW).state_dict()
    theirs = TimmBackbone(SWIN, weights=path, **FEW).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items() if "extractor" in key)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet10t.c3_in1k", "local-dir:/tmp", "resnet0"])
def test_a_name_that_timm_would_look_up_elsewhere_is_refused(name):
    with pytest.raises(UserError, match="timm has no model"):
        TimmBackbone(name)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "pretrained"])
def test_arguments_that_load_weights_are_refused(key):
    with pytest.raises(UserError, match=f"backbone: '{key}' is not taken"):
        TimmBackbone("resnet10t", **{key: "weights.pth"})


LITE = "tf_efficientnet_lite0"


def test_frozen_stages_and_norms_stay_as_they_are():
    torch.manual_seed(0)
    frozen = ("conv_stem", *(f"blocks.{i}." for i in range(6)))
    backbone = TimmBackbone(LITE, norm_outputs=False, frozen=frozen, freeze_norms=True)
    assert {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad} == {
        "blocks"
    }
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in backbone.parameters() if p.requires_grad), lr=0.1)
    backbone.train()
    sum(f.square().mean() for f in backbone(image(64, 64, 2)).values()).backward()
    optimizer.step()
    after = backbone.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith("extractor.blocks.6.") for key in changed)
    assert all("conv" in key for key in changed)


def test_bfloat16_gradients_of_a_coarse_level_of_one_location_are_those_of_float32():
    """On CPUs, oneDNN leaves parts of such a gradient unwritten: memory full of infinity shows."""
    torch.manual_seed(0)
    bottom_up = TimmBackbone("resnet10t", norm_outputs=False, channels=(8, 8, 8, 8), stem_width=8)
    pyramid = feature_pyramid(bottom_up, channels=32)
    x = image(64, 64, 2)
    for precision in (torch.float32, torch.bfloat16):
        pyramid.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            p7 = pyramid(x)["p7"]
        dirty = [torch.full((2**i,), torch.inf) for i in range(6, 18) for _ in range(3)]
        del dirty
        p7.float().sum().backward()
        gradient = pyramid.top_block.p7.weight.grad
        if precision == torch.float32:
            expected = gradient.clone()
    assert p7.shape[-2:] == (1, 1)
    torch.testing.assert_close(gradient, expected, atol=0.05 * expected.abs().max().item(), rtol=0)


def padded_by_definition(block, x):
    """The attention of a block of Swin's authors: norm, pad, roll, windows, roll back, crop."""
    height, width = x.shape[1:3]
    window, shift = block.window_size[0], block.shift_size[0]
    rows, columns = (-(-side // window) * window for side in (height, width))
    padded = torch.zeros(len(x), rows, columns, x.shape[3])
    padded[:, :height, :width] = block.norm1(x)
    # The region of each location: attention stays within it.
    region = torch.zeros(rows, columns)
    for i, axis in enumerate((rows, columns)):
        along = torch.zeros(axis)
        along[axis - window :], along[axis - shift :] = 1, 2
        region += (along[:, None] if i == 0 else along) * 3**i
    region = region if shift else torch.zeros_like(region)
    shifted = padded.roll((-shift, -shift), (1, 2))
    result = torch.zeros_like(padded)
    for top in range(0, rows, window):
        for left in range(0, columns, window):
            own = slice(top, top + window), slice(left, left + window)
            ids = region[own].flatten()
            mask = torch.where(ids[:, None] == ids, 0.0, -100.0)[None]
            tokens = shifted[:, own[0], own[1]].flatten(1, 2)
            result[:, own[0], own[1]] = block.attn(tokens, mask=mask).unflatten(1, (window, window))
    return result.roll((shift, shift), (1, 2))[:, :height, :width]


@torch.no_grad()
@pytest.mark.parametrize("shifted", [0, 1])
def test_pad_before_roll_is_the_order_of_swins_authors(shifted):
    torch.manual_seed(0)
    blocks = {}
    for first in (True, False):
        torch.manual_seed(0)
        backbone = TimmBackbone(SWIN, pad_before_roll=first, **FEW).eval()
        block = blocks[first] = backbone.extractor.layers_0.blocks[shifted]
        torch.nn.init.normal_(block.attn.qkv.bias)  # padding takes part by it
    x = torch.randn(2, 7, 8, 8)  # windows of 3
    theirs = padded_by_definition(blocks[True], x)
    torch.testing.assert_close(blocks[True]._attn(blocks[True].norm1(x)), theirs)
    timms = blocks[False]._attn(blocks[False].norm1(x))
    assert torch.allclose(timms, theirs, atol=1e-5) == (not shifted)


def test_pad_before_roll_survives_a_copy():
    """An average of weights is a copy; its blocks must use their own weights."""
    backbone = TimmBackbone(SWIN, pad_before_roll=True, **FEW).eval()
    twin = deepcopy(backbone)
    with torch.no_grad():
        for parameter in twin.extractor.layers_1.blocks[1].attn.parameters():
            parameter.zero_()
        x = image(96, 128)
        assert not torch.equal(backbone(x)["c5"], twin(x)["c5"])
        twin.load_state_dict(backbone.state_dict())
        assert torch.equal(backbone(x)["c5"], twin(x)["c5"])


def test_drop_block_is_on_the_merged_maps_of_p3_and_p4():
    torch.manual_seed(0)
    bottom_up = TimmBackbone(SWIN, drop_path_rate=0.0, **FEW)
    pyramid = feature_pyramid(bottom_up, 16, drop_block=0.3)
    assert set(pyramid.state_dict()) == set(feature_pyramid(bottom_up, 16).state_dict())
    x = image(128, 128)
    with torch.no_grad():
        first, second = pyramid.train()(x), pyramid(x)
        assert {name for name in first if not torch.equal(first[name], second[name])} == {
            "p3",
            "p4",
        }
        first, second = pyramid.eval()(x), pyramid(x)
        assert all(torch.equal(first[name], second[name]) for name in first)

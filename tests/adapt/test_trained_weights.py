"""Which weights are trained, and that low-rank ones end up in the model."""

import copy

import pytest
import torch

from vrm import load_encoder
from vrm.adapt.data import AdaptError
from vrm.adapt.tune import Trained, Tune

FRAMES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trained_names(path, tune, towers="both"):
    return set(Trained(load_encoder(str(path)), Tune.parse(tune), towers).named())


def test_full_trains_every_weight_of_both_towers(tiny_clip):
    encoder = load_encoder(str(tiny_clip))
    everything = {name for name, _ in encoder.model.named_parameters()}
    assert trained_names(tiny_clip, "full") == everything


def test_one_tower_leaves_the_other_alone(tiny_clip):
    image = trained_names(tiny_clip, "full", "image") - {"logit_scale"}
    text = trained_names(tiny_clip, "full", "text") - {"logit_scale"}
    assert all(name.startswith("visual.") for name in image)
    assert not any(name.startswith("visual.") for name in text)


@pytest.mark.parametrize(("model", "text"), [("tiny_clip", ""), ("tiny_custom", "text.")])
def test_last_blocks_come_with_what_runs_after_them(model, text, request):
    names = trained_names(request.getfixturevalue(model), "last:1")
    blocks = {name.split(".resblocks.")[0] + name.split(".resblocks.")[1][0] for name in names if "resblocks" in name}
    assert blocks == {"visual.transformer2", f"{text}transformer1"}
    rest = {name for name in names if "resblocks" not in name}
    norms = {f"{norm}.{part}" for norm in ("visual.ln_post", f"{text}ln_final") for part in ("weight", "bias")}
    assert rest == norms | {"visual.proj", f"{text}text_projection", "logit_scale"}


def test_the_stages_of_a_resnet_count_as_blocks():
    names = trained_names("vrm-sim", "last:1", "image")
    assert {name.split(".")[1] for name in names if name.startswith("visual.")} == {"layer4", "attnpool"}


@pytest.mark.parametrize("model", ["tiny_clip", "tiny_custom", "vrm-sim"])
@pytest.mark.parametrize("towers", ["both", "image", "text"])
def test_low_rank_weights_change_only_their_tower_and_are_merged(model, towers, request):
    encoder = load_encoder(model if model == "vrm-sim" else str(request.getfixturevalue(model)))
    keys = encoder.model.state_dict().keys()
    image, text = encoder.encode_image(FRAMES), encoder.encode_text(["a cart", "a pole"])
    trained = Trained(encoder, Tune.parse("lora:2"), towers)
    assert torch.allclose(encoder.encode_image(FRAMES), image, atol=1e-6)
    small, whole = trained.counts
    assert small < whole / 8
    torch.manual_seed(0)
    trained.restore({n: v if n == "logit_scale" else torch.randn_like(v) * 0.05 for n, v in trained.copy().items()})
    before = encoder.encode_image(FRAMES)
    trained.finish()
    encoder._forget_texts()
    assert encoder.model.state_dict().keys() == keys
    assert torch.allclose(encoder.encode_image(FRAMES), before, atol=1e-5)
    assert torch.allclose(before, image, atol=1e-3) == (towers == "text")
    assert torch.allclose(encoder.encode_text(["a cart", "a pole"]), text, atol=1e-3) == (towers == "image")


def test_frozen_weights_under_low_rank_ones_keep_their_exact_values(tiny_clip):
    encoder = load_encoder(str(tiny_clip))
    original = copy.deepcopy(encoder.model.state_dict())
    trained = Trained(encoder, Tune.parse("lora:2"))
    trained.restore({n: torch.full_like(v, 0.1) for n, v in trained.copy().items()})
    for _ in range(20):
        with torch.no_grad():
            encoder.image_features(torch.rand(2, 3, 32, 32))
    trained.undo_rounding()
    weights = dict(encoder.model.named_parameters())
    for name in (n for n in original if n.endswith("attn.in_proj_weight")):
        now = weights[name.replace("in_proj_weight", "base_layer.in_proj_weight")]
        assert torch.equal(now, original[name])


def test_every_low_rank_weight_gets_a_gradient(tiny_clip):
    encoder = load_encoder(str(tiny_clip))
    trained = Trained(encoder, Tune.parse("lora:2"))
    with torch.no_grad():
        for parameter in trained.named().values():
            parameter.add_(0.01)
    cosines = encoder.image_features(torch.rand(2, 3, 32, 32)) @ encoder.text_features(["a cart"]).T
    (cosines.sum() * encoder.model.logit_scale).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.named().values())


@pytest.mark.parametrize("text", ["", "half", "last", "last:0", "last:x", "lora:", "lora:-1", "full:2"])
def test_an_unknown_way_to_tune_is_refused_with_the_known_ones(text):
    with pytest.raises(AdaptError, match="tune must be full, last:K or lora"):
        Tune.parse(text)


def test_more_blocks_than_there_are_is_an_error(tiny_clip):
    with pytest.raises(AdaptError, match="more than the 2 blocks of the text tower"):
        trained_names(tiny_clip, "last:3")

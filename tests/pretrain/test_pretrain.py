"""Pre-training at toy size, on really rendered frames and the real sentence encoder."""

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

import vrm
from vrm.envs import FAMILIES
from vrm.envs.captions import Caption, caption_truth
from vrm.pretrain import shards
from vrm.pretrain.distil import encode_tokens
from vrm.pretrain.images import PairSampler, augment, pair_loss, train_images
from vrm.pretrain.recipe import Recipe
from vrm.pretrain.text import Teacher, load_pools, sentences
from vrm.pretrain.train import evaluate, write_folder

RECIPE = Recipe(
    frames=240,
    captions=40,
    image_steps=6,
    image_batch=32,
    vision={"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
    text={"context_length": 48, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    embed_dim=32,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrain")


@pytest.fixture(scope="module")
def sets(folder):
    pieces = shards.plan(RECIPE.frames, RECIPE.size, RECIPE.seed)
    for piece in pieces:
        shards.render_shard(piece, folder)
    return shards.load(pieces, folder)


@pytest.fixture(scope="module")
def pools(sets, folder):
    return load_pools(RECIPE, sets, Teacher(), folder)


def small_model():
    torch.manual_seed(0)
    return open_clip.CLIP(**RECIPE.model_config(), init_logit_bias=0.0)


def test_shards_depend_on_the_seed_alone(sets, folder, tmp_path):
    piece = shards.plan(RECIPE.frames, RECIPE.size, RECIPE.seed)[-1]
    again, first = (np.load(shards.render_shard(piece, place)) for place in (tmp_path, folder))
    np.testing.assert_array_equal(again["frames"], first["frames"])
    np.testing.assert_array_equal(again["truths"], first["truths"])


def test_every_family_is_rendered_and_labelled(sets, tmp_path):
    assert [s.family for s in sets] == [name for name, family in FAMILIES.items() if family.share]
    for frames in sets:
        assert frames.frames.dtype == torch.uint8
        assert frames.frames.float().std() > 5
        assert set(shards.balance(frames)) == {f.name for f in FAMILIES[frames.family].captioner.facts}
        shards.contact_sheet(frames, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_pool_truth_is_caption_truth(sets, pools):
    captioner = FAMILIES["humanoid"].captioner
    rng = np.random.default_rng(3)
    captions = [captioner.compose(rng) for _ in range(30)] + [Caption("a robot", ())]
    from vrm.pretrain.text import CaptionPool, _columns

    pool = CaptionPool([c.text for c in captions], _columns(captioner, captions), torch.zeros(31, 384))
    truths = sets[0].truths[:20]
    expected = caption_truth(truths.numpy(), captions)
    np.testing.assert_allclose(pool.truth(truths, torch.arange(31)).numpy(), expected, atol=1e-6)


def test_captions_of_other_families_are_false(sets, pools):
    frames, texts, truth, near = PairSampler(sets, pools, 32, seed=0).draw(0)
    assert truth.shape == near.shape == (len(frames), len(texts))
    assert truth[near == 0].max() == 0 < truth[near == 1].max()
    again = PairSampler(sets, pools, 32, seed=0).draw(0)
    assert torch.equal(again[0], frames)


def test_pair_loss_prefers_the_truth():
    truth = (torch.rand(20, 30) > 0.7).float()
    near = torch.block_diag(torch.ones(10, 15), torch.ones(10, 15))
    truth *= near
    good, bad = (truth * 2 - 1) * 6, (1 - truth * 2) * 6
    losses = [float(pair_loss(logits, truth, near)) for logits in (good, torch.zeros(20, 30), bad)]
    assert losses == sorted(losses)
    assert losses[0] < 0.05


def test_a_wrong_frame_of_ones_own_family_costs_more_than_a_strangers():
    truth, near = torch.zeros(6, 1), torch.tensor([[1.0], [1], [0], [0], [0], [0]])
    own, stranger = torch.full((6, 1), -6.0), torch.full((6, 1), -6.0)
    own[0], stranger[2] = 6, 6
    assert pair_loss(own, truth, near) > pair_loss(stranger, truth, near)


def test_augmented_frames_stay_frames():
    images = augment(torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8))
    assert images.shape == (6, 3, 64, 64)
    assert 0 <= images.min() <= images.max() <= 1


def test_interrupted_image_stage_continues_to_the_same_step(sets, pools, tmp_path):
    model, project = small_model(), nn.Linear(384, RECIPE.embed_dim, bias=False)
    train_images(RECIPE, model, project, sets, pools, tmp_path)
    saved = torch.load(tmp_path / "image.pt", weights_only=True)
    assert saved["step"] == RECIPE.image_steps
    fresh = small_model()
    train_images(RECIPE, fresh, project, sets, pools, tmp_path)
    for ours, theirs in zip(model.visual.parameters(), fresh.visual.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_short_token_rows_give_the_towers_own_features():
    model = small_model().eval()
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=48)(["a robot", "a humanoid robot kneeling down"])
    with torch.no_grad():
        torch.testing.assert_close(encode_tokens(model, tokens), model.encode_text(tokens, normalize=True))


def test_written_folder_loads_everywhere(sets, tmp_path):
    model = small_model().eval()
    write_folder(RECIPE, model, tmp_path)
    ours = vrm.load_encoder(str(tmp_path))
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pixels = ours.preprocess(sets[0].frames[:4])
    with torch.no_grad():
        expected = theirs.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(ours.encode_image(sets[0].frames[:4]), expected, atol=1e-5, rtol=0)
    assert all(0 <= v <= 1 for v in evaluate(model, sets).values())


def test_sentences_are_varied_and_repeatable(pools):
    def draw():
        stream = sentences(pools, np.random.default_rng(0))
        return [next(stream) for _ in range(60)]

    assert draw() == draw()
    assert len(set(draw())) > 50

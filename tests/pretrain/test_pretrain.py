"""Pre-training at toy size, on really rendered frames and the real sentence encoder."""

import numpy as np
import open_clip
import pytest
import torch

import vrm
from vrm.envs import FAMILIES
from vrm.envs.captions import Caption, caption_truth
from vrm.pretrain import shards
from vrm.pretrain.distil import assertions, encode_tokens, place_sentences
from vrm.pretrain.facts import FactSpace
from vrm.pretrain.images import PairSampler, augment, pair_loss, train_images
from vrm.pretrain.recipe import Recipe
from vrm.pretrain.teacher import Teacher, teach
from vrm.pretrain.text import CaptionPool, _columns, load_pools, sentences
from vrm.pretrain.train import evaluate, write_folder

RECIPE = Recipe(
    frames=240,
    captions=40,
    image_steps=6,
    image_batch=32,
    teacher_steps=2,
    corpus=60,
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
    return load_pools(RECIPE, sets, folder)


def small_model():
    torch.manual_seed(0)
    return open_clip.CLIP(**RECIPE.model_config(), init_logit_bias=0.0)


def small_space(sets):
    torch.manual_seed(1)
    return FactSpace([frames.truths.shape[1] for frames in sets], RECIPE.embed_dim)


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
    pool = CaptionPool([c.text for c in captions], _columns(captioner, captions))
    truths = sets[0].truths[:20]
    expected = caption_truth(truths.numpy(), captions)
    np.testing.assert_allclose(pool.truth(truths, pool.columns).numpy(), expected, atol=1e-6)


def test_captions_of_other_families_are_false(sets, pools):
    frames, asserted, truth, near = PairSampler(sets, pools, 32, seed=0).draw(0)
    assert truth.shape == near.shape == (len(frames), sum(len(columns) for _, columns in asserted))
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
    model, space = small_model(), small_space(sets)
    train_images(RECIPE, model, space, sets, pools, tmp_path)
    saved = torch.load(tmp_path / "image.pt", weights_only=True)
    assert saved["step"] == RECIPE.image_steps
    fresh = small_model()
    train_images(RECIPE, fresh, space, sets, pools, tmp_path)
    for ours, theirs in zip(model.visual.parameters(), fresh.visual.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_sentences_that_say_the_same_are_one_point_between_their_facts(sets, pools):
    space, pool = small_space(sets), pools[0]
    nothing = len(pool.single) - 1
    both, swapped, first, second, subject = space(
        0, torch.tensor([[3, 5], [5, 3], [3, nothing], [5, nothing], [nothing, nothing]])
    )
    torch.testing.assert_close(both, swapped)
    assert both @ first > subject @ first
    assert both @ second > subject @ second
    opposite = space(0, torch.tensor([[nothing // 2 + 3, nothing]]))[0]
    assert opposite @ first < both @ first


def test_the_teacher_learns_what_captions_mean_and_continues_where_it_was(sets, pools, tmp_path):
    texts, targets, anchors, choices = assertions(small_space(sets), pools)
    torch.testing.assert_close(anchors[choices[choices >= 0]], targets[choices >= 0])
    torch.manual_seed(0)
    some = [i for i, choice in enumerate(choices.tolist()) if choice >= 0][:6]
    chosen = [texts[i] for i in some], targets[some], anchors, choices[some]
    teacher = Teacher(RECIPE.embed_dim)
    before = (teacher.embed(chosen[0]) * chosen[1]).sum(1).mean()
    teach(teacher, *chosen, steps=12, path=tmp_path / "teacher.pt", batch=6)
    after = (teacher.embed(chosen[0]) * chosen[1]).sum(1).mean()
    assert after > before + 0.3
    again = Teacher(RECIPE.embed_dim)
    teach(again, *chosen, steps=12, path=tmp_path / "teacher.pt", batch=6)
    torch.testing.assert_close(again.embed(chosen[0]), teacher.embed(chosen[0]))


def test_captions_belong_where_their_facts_are_and_other_sentences_where_the_teacher_says(sets, pools, tmp_path):
    space, teacher = small_space(sets), Teacher(RECIPE.embed_dim)
    texts, targets = place_sentences(RECIPE, space, pools, teacher, tmp_path)
    assert targets.shape == (len(texts), RECIPE.embed_dim) == (RECIPE.corpus, RECIPE.embed_dim)
    captions = dict(zip(*assertions(space, pools)[:2], strict=True))
    known = [text in captions for text in texts]
    assert 10 < sum(known) < RECIPE.corpus
    said = torch.stack([captions.get(text, target) for text, target in zip(texts, targets, strict=True)])
    torch.testing.assert_close(targets, said)
    others = [text for text in texts if text not in captions]
    torch.testing.assert_close(targets[[not k for k in known]], teacher.embed(others), atol=0.02, rtol=0)
    again, same = place_sentences(RECIPE, space, pools, Teacher(RECIPE.embed_dim), tmp_path)
    assert again == texts
    assert torch.equal(same, targets)


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

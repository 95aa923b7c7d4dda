"""`vrm pretrain --evaluate`: an encoder that knows everything scores 1, one that knows nothing 0.5, on real frames."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyEncoder

import vrm
from vrm.encoders import Encoder, Preprocess
from vrm.envs import FAMILIES
from vrm.envs.heldout import held_out_prompts
from vrm.errors import MissingExtraError, UnknownNameError, VrmError
from vrm.metrics import roc_auc, spearman
from vrm.pretrain import evaluate_command as command
from vrm.pretrain.evaluate import (
    FactScore,
    FamilyScore,
    _reachable,
    family_prompts,
    mirror,
    score_family,
    shuffled,
    summarise,
)
from vrm.pretrain.gallery import principal_plane
from vrm.pretrain.held_out import HeldOutFrames, held_out_shards, load_held_out, render_held_out, strangers
from vrm.pretrain.shards import plan

NAMES = ("cartpole", "mountain_car")


class Oracle(Encoder):
    """Looks frames up: component k is the truth of fact k, and prompts about fact k point along it."""

    def __init__(self, held_out: HeldOutFrames) -> None:
        facts = held_out.truths.shape[1]
        super().__init__("oracle", facts + 2, Preprocess((8, 8), (0.5,) * 3, (0.25,) * 3))
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        left = np.sqrt(facts - (held_out.truths**2).sum(1, keepdims=True))
        rows = np.concatenate([held_out.truths, left, np.zeros_like(left)], axis=1)
        self.known = {
            frame.numpy().tobytes(): torch.tensor(row).float() for frame, row in zip(held_out.frames, rows, strict=True)
        }
        self.texts = {}
        captioner = FAMILIES[held_out.family].captioner
        for index, (fact, entry) in enumerate(
            zip(captioner.facts, family_prompts(held_out.family).values(), strict=True)
        ):
            said = [f"{captioner.subjects[0]} {phrase}" for phrase in fact.phrases]
            self.texts |= dict.fromkeys([*entry.means, *said], index)

    def encode_image(self, frames):
        return torch.stack([self.known[frame.numpy().tobytes()] for frame in frames]) / (self.embed_dim - 2) ** 0.5

    def image_features(self, pixels):
        raise NotImplementedError

    def text_features(self, texts):
        index = torch.tensor([self.texts.get(text, self.embed_dim - 1) for text in texts])
        return torch.nn.functional.one_hot(index, self.embed_dim).float()


class Constant(TinyEncoder):
    """Sees the same in every frame."""

    def image_features(self, pixels):
        return torch.ones(len(pixels), 16)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    shards = {name: held_out_shards(name, 40, 32, seed=3) for name in NAMES}
    render_held_out([shard for some in shards.values() for shard in some], folder, workers=1)
    return {name: load_held_out(some, folder) for name, some in shards.items()}


def measured(encoder, held_out):
    return score_family(encoder, held_out, encoder.encode_image(held_out.frames))


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_that_knows_the_truth_gets_full_marks(held_out, name):
    score = measured(Oracle(held_out[name]), held_out[name])
    assert any(fact.auc == 1 for fact in score.facts)
    for fact in score.facts:
        assert math.isnan(fact.auc) == (min(fact.true, fact.false) < 5)
        assert math.isnan(fact.auc) or (fact.auc == 1 and fact.caption_auc == 1 and fact.near_miss_above == 0)
        assert fact.told_apart == 1 or math.isnan(fact.told_apart)
        assert fact.agreement == pytest.approx(1)
        assert math.isnan(fact.graded) or fact.graded == pytest.approx(1)
    assert score.own_above_others == 1
    said = summarise([score])
    assert said["auc"] == said["auc_worst_family"] == said["auc_left_right"] == 1


def test_a_constant_encoder_gets_one_half(held_out):
    for frames in held_out.values():
        encoder = Constant()
        encoder.words.weight.fill_(1.0)
        score = measured(encoder, frames)
        known = [fact for fact in score.facts if not math.isnan(fact.auc)]
        assert known
        assert {fact.auc for fact in known} == {fact.near_miss_auc for fact in known} == {0.5}
        assert {fact.near_miss_above for fact in known} == {0.5}
        assert score.own_above_others == 0.5
        assert math.isnan(summarise([score])["agreement"])


def test_unclear_states_are_left_out():
    truth = np.linspace(0, 1, 41, dtype=np.float32)
    others = len(FAMILIES["mountain_car"].captioner.facts) - 1
    truths = np.stack([truth, *np.zeros((others, 41), np.float32)], axis=1)
    frames = HeldOutFrames("mountain_car", torch.zeros(41, 3, 4, 4, dtype=torch.uint8), truths)
    fact = score_family(TinyEncoder(), frames, torch.eye(41, 16)).facts[0]
    assert (fact.true, fact.false) == (13, 13)


def test_held_out_states_are_none_of_pre_training(held_out, tmp_path):
    training = [shard for shard in plan(100_000, 32, seed=3) if shard.family == "cartpole"]
    ours = held_out_shards("cartpole", 600, 32, seed=3)
    assert {shard.index for shard in training}.isdisjoint(shard.index for shard in ours)
    assert sum(shard.count for shard in ours) == 600
    render_held_out(again := held_out_shards("cartpole", 40, 32, seed=3), tmp_path, workers=1)
    torch.testing.assert_close(load_held_out(again, tmp_path).frames, held_out["cartpole"].frames, rtol=0, atol=0)


def test_the_same_states_are_seen_at_every_size(held_out, tmp_path):
    render_held_out(larger := held_out_shards("cartpole", 40, 48, seed=3), tmp_path, workers=1)
    np.testing.assert_array_equal(load_held_out(larger, tmp_path).truths, held_out["cartpole"].truths)


def test_shuffled_weights_are_the_same_numbers_and_know_nothing(held_out):
    encoder = vrm.load_encoder("vrm-sim")
    twin = shuffled(encoder)
    for ours, theirs in zip(encoder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.flatten().sort().values, theirs.flatten().sort().values, rtol=0, atol=0)
    assert twin.fingerprint == shuffled(encoder).fingerprint != encoder.fingerprint
    frames = held_out["mountain_car"]
    assert measured(twin, frames).auc < 0.8 < measured(encoder, frames).auc


def test_facts_are_grouped_by_what_their_names_say(held_out):
    facts = {fact.fact: fact.groups for fact in measured(TinyEncoder(), held_out["cartpole"]).facts}
    assert "left/right" in facts["left"]
    assert "left/right" not in facts["upright"]
    assert mirror("upper_left") == "upper_right"
    for family in FAMILIES.values():
        names = {fact.name for fact in family.captioner.facts}
        assert {twin for name in names if (twin := mirror(name))} <= names


def test_every_family_has_prompts_about_every_fact():
    for name, family in FAMILIES.items():
        prompts = family_prompts(name)
        assert list(prompts) == [fact.name for fact in family.captioner.facts]
        texts = [text for entry in prompts.values() for text in (*entry.means, *entry.near_misses)]
        assert all(text.startswith(family.captioner.subjects[0]) for text in texts)
    with pytest.raises(UnknownNameError, match="held-out phrases 'cart'"):
        held_out_prompts("cart", "a cart")


def test_families_of_the_same_body_are_no_strangers():
    assert "fetch_reach" not in strangers("fetch_push")
    assert all(name not in strangers(name) and strangers(name) for name in FAMILIES)


def test_reachable_correlation_is_that_of_an_untied_quantity():
    quantity = np.random.default_rng(0).normal(size=400)
    truth = np.clip(quantity, -0.5, 0.8).astype(np.float32)
    assert _reachable(truth) == pytest.approx(spearman(quantity, truth), abs=1e-9)


def test_summary_leaves_out_what_was_not_measured():
    fact = FactScore("a", (), 9, 9, 0.8, 0.9, 0.4, 0.1, 0.5, math.nan, math.nan, ())
    blank = FactScore("b", (), 0, 9, *(math.nan,) * 7, ())
    said = summarise([FamilyScore("x", (fact, blank), 0.75)])
    assert said["auc"] == said["auc_worst_family"] == 0.8
    assert math.isnan(said["graded"])
    assert said["own_above_others"] == 0.75


def test_principal_plane_keeps_the_largest_spread():
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 2.0])
    basis = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1))).Q[:2]
    plane = principal_plane(points @ basis + 3)
    expected = torch.pdist((points - points.mean(0)).double())
    torch.testing.assert_close(torch.pdist(torch.from_numpy(plane)), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    words = ["--families", *NAMES, "--frames", "40", "--workers", "1", "--against", "vrm-sim", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_encoder", lambda name, device: TinyEncoder(int(name == "other"), name))
        words[words.index("vrm-sim")] = "other"
        assert command.evaluate_command(["--encoder", "tiny", *words]) == 0
    return out


def test_the_command_writes_numbers_and_pictures(results):
    report = json.loads((results / "scores.json").read_text())
    assert list(report["encoders"]) == ["tiny", "tiny shuffled", "other"]
    family = report["encoders"]["tiny"]["families"][0]
    rows = list(csv.DictReader((results / "facts.csv").read_text().splitlines()))
    assert len(rows) == 3 * sum(len(FAMILIES[name].captioner.facts) for name in NAMES)
    assert float(rows[0]["auc"]) == family["facts"][0]["auc"]
    prompts = list(csv.DictReader((results / "prompts.csv").read_text().splitlines()))
    assert {row["kind"] for row in prompts} == {"means", "near miss"}
    for name in ("facts", "scores", "map", "retrievals"):
        assert np.asarray(Image.open(results / f"{name}.png")).std() > 5
    assert not list(results.glob(".*"))


def test_the_table_names_every_encoder_family_and_weak_fact(held_out):
    scores = {
        name: [measured(encoder, frames) for frames in held_out.values()]
        for name, encoder in (("tiny", TinyEncoder()), ("other", TinyEncoder(1)))
    }
    text = "\n".join(command.table(scores))
    for word in ("tiny", "#2: other", *NAMES, "worst family", "weakest: ", "too few frames"):
        assert word in text
    auc = summarise(scores["other"])["auc"]
    assert f"{auc:.3f}" in next(line for line in text.splitlines() if line.startswith("all"))


def test_families_without_their_extra_are_left_out_with_a_sentence(monkeypatch, capsys):
    def missing(**options):
        raise MissingExtraError("gymnasium-robotics", "robotics", "The Fetch tasks")

    families = dict(FAMILIES)
    families["fetch_push"] = type(families["fetch_push"])(
        "fetch_push", missing, *(getattr(FAMILIES["fetch_push"], part) for part in ("sample", "captioner", "share"))
    )
    monkeypatch.setattr(command, "FAMILIES", families)
    assert command._renderable(["cartpole", "fetch_push"]) == ["cartpole"]
    assert "fetch_push is left out" in capsys.readouterr().err
    with pytest.raises(VrmError, match="None of the families"):
        command._renderable(["fetch_push"])


def test_bad_arguments_are_refused_with_a_sentence(capsys):
    with pytest.raises(UnknownNameError, match="cart_pole"):
        command.evaluate_command(["--families", "cart_pole"])
    with pytest.raises(SystemExit):
        command.evaluate_command(["--frames", "5"])
    assert "fewer than 20 frames" in capsys.readouterr().err


def test_auc_of_a_fact_is_that_of_its_mean_cosine(held_out):
    encoder, frames = TinyEncoder(), held_out["mountain_car"]
    image = encoder.encode_image(frames.frames)
    text = encoder.encode_text(list(family_prompts("mountain_car")["valley"].means))
    truth = frames.truths[:, 1]
    clear = (truth <= 0.3) | (truth >= 0.7)
    expected = roc_auc((image @ text.T).mean(1).numpy()[clear], truth[clear] >= 0.7)
    assert measured(encoder, frames).facts[1].auc == pytest.approx(expected, abs=1e-6)

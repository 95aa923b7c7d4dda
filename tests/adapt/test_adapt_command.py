"""``vrm adapt`` on real pictures: what is learned, kept, reported and resumed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny import TinyEncoder

from vrm import load_encoder
from vrm.adapt.adapt import adapt
from vrm.adapt.command import adapt_command
from vrm.adapt.data import AdaptError
from vrm.adapt.files import read_captions
from vrm.adapt.train import Settings, Trainer
from vrm.errors import UnknownNameError
from vrm.metrics import roc_auc

FAST = ["--steps", "60", "--eval-every", "20", "--batch", "16", "--lr", "3e-3", "--tune", "full", "--device", "cpu"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Red or blue pictures with a large or a small black square, two captions each, and labels for one goal."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    captions, labels = ["file,caption"], ["file,label"]
    for i in range(60):
        is_red, is_large = i % 2 == 0, i % 4 < 2
        strong, weak = (int(v) for v in (rng.integers(180, 230), rng.integers(20, 60)))
        picture = Image.new("RGB", (32, 32), (strong, weak, weak) if is_red else (weak, weak, strong))
        x, side = int(rng.integers(6)), 24 if is_large else 6
        ImageDraw.Draw(picture).rectangle((x, x, x + side, x + side), fill=(0, 0, 0))
        picture.save(folder / f"{i}.png")
        captions.append(f"{i}.png,a {'red' if is_red else 'blue'} ground")
        captions.append(f"{i}.png,a {'large' if is_large else 'small'} square")
        labels.append(f"{i}.png,{'good' if is_red else 'bad'}")
    (folder / "captions.csv").write_text("\n".join(captions))
    (folder / "labels.csv").write_text("\n".join(labels))
    return folder


def test_labels_teach_a_goal_and_the_saved_encoder_knows_it(shapes, tiny_clip, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["--labels", str(shapes / "labels.csv"), "--goal", "a red ground", "--retain", "none"]
    assert adapt_command(["--encoder", str(tiny_clip), *asked, *FAST, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    (standing,) = report["sources"].values()
    assert standing["after"]["auc"] > 0.9
    assert standing["after"]["auc"] >= standing["before"]["auc"]
    assert report["forgetting"] is None
    assert "a red ground" in capsys.readouterr().out
    with Image.open(out / "report.png") as picture:
        assert picture.size[0] > 1000
    frames = read_captions(shapes, load_encoder(str(tiny_clip)).preprocess).frames
    adapted = load_encoder(str(out / "encoder"))
    score = (adapted.encode_image(frames) @ adapted.encode_text(["a red ground"]).T)[:, 0]
    assert roc_auc(score, np.arange(60) % 2 == 0) > 0.9
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(AdaptError, match="holds a finished adaptation"):
        adapt_command(["--encoder", str(tiny_clip), *asked, *FAST, "--out", str(out)])


@pytest.mark.parametrize("tune", ["full", "last:2", "lora:4"])
def test_captions_are_learned_in_every_way_to_tune(shapes, tiny_clip, tmp_path, tune):
    encoder = load_encoder(str(tiny_clip))
    source = read_captions(shapes, encoder.preprocess)
    settings = Settings(tune=tune, steps=40, batch=24, lr=3e-3, eval_every=20)
    report = adapt(encoder, [source], tmp_path, settings, [source])
    ((before, after),) = report.sources.values()
    assert after.auc > max(before.auc, 0.6)
    assert report.forgetting.image_drift > 0
    loaded = load_encoder(report.out)
    assert torch.allclose(loaded.encode_image(source.frames), encoder.encode_image(source.frames), atol=1e-5)


def test_the_retention_weight_holds_embeddings_where_they_were(shapes, tiny_clip, tmp_path):
    drifts = []
    for weight in (0.0, 30.0):
        encoder = load_encoder(str(tiny_clip))
        source = read_captions(shapes, encoder.preprocess)
        settings = Settings(tune="full", steps=15, batch=16, lr=1e-3, eval_every=15, retain=weight)
        report = adapt(encoder, [source], tmp_path / str(weight), settings, [source])
        drifts.append(report.forgetting.image_drift)
    assert drifts[1] < drifts[0] / 2


@pytest.mark.parametrize("tune", ["full", "lora:2"])
def test_a_run_that_was_cut_off_ends_where_a_whole_one_does(shapes, tiny_clip, tmp_path, tune, monkeypatch):
    settings = Settings(tune=tune, steps=12, batch=8, lr=1e-3, eval_every=4)

    def run(out):
        encoder = load_encoder(str(tiny_clip))
        source = read_captions(shapes, encoder.preprocess)
        return adapt(encoder, [source], out, settings), load_encoder(str(out / "encoder"))

    whole, expected = run(tmp_path / "whole")
    take_step = Trainer._step

    def cut_off(self, step):
        if step == 9:
            raise KeyboardInterrupt
        return take_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    resumed, found = run(tmp_path / "cut")
    assert found.fingerprint == expected.fingerprint
    assert resumed.curve[1:] == whole.curve[1:]


def test_a_checkpoint_of_other_settings_is_not_continued(shapes, tiny_clip, tmp_path):
    encoder = load_encoder(str(tiny_clip))
    source = read_captions(shapes, encoder.preprocess)
    split = source.split(0.2, 0)
    trainer = Trainer(encoder, [(source, split)], None, Settings(steps=4, batch=4), tmp_path)
    trainer._judge(0, 0.0)
    trainer._save()
    with pytest.raises(AdaptError, match="was begun with batch = 4, not 8"):
        Trainer(load_encoder(str(tiny_clip)), [(source, split)], None, Settings(steps=4, batch=8), tmp_path)


def test_gradient_checkpointing_changes_no_gradient(shapes, tiny_clip, tmp_path):
    found = []
    for on in (False, True):
        encoder = load_encoder(str(tiny_clip))
        source = read_captions(shapes, encoder.preprocess)
        settings = Settings(tune="lora:2", steps=2, batch=8, eval_every=2, grad_checkpointing=on)
        adapt(encoder, [source], tmp_path / str(on), settings)
        found.append(encoder.encode_image(source.frames))
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_the_original_is_kept_where_training_does_not_help(shapes, tiny_clip, tmp_path):
    encoder = load_encoder(str(tiny_clip))
    fingerprint = encoder.fingerprint
    settings = Settings(tune="full", steps=4, batch=4, eval_every=2, lr=1e-30)
    report = adapt(encoder, [read_captions(shapes, encoder.preprocess)], tmp_path, settings)
    assert report.best_step == 0
    assert load_encoder(report.out).fingerprint == fingerprint


@pytest.mark.filterwarnings("ignore:.*tokens.*:UserWarning")  # a few captions are longer than the small encoder reads
def test_a_family_is_rendered_captioned_and_learned(tiny_clip, tmp_path):
    asked = ["--family", "cartpole", "--frames", "200", "--ask", "upright=the pole stands", "--retain-frames", "0"]
    options = ["--steps", "4", "--eval-every", "2", "--batch", "8", "--retain", "none", "--workers", "1"]
    out = tmp_path / "out"
    assert adapt_command(["--encoder", str(tiny_clip), *asked, *options, "--device", "cpu", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert "the pole stands" in [answer["text"] for answer in report["sources"]["cartpole"]["before"]["answers"]]
    assert report["frames"]["cartpole"] == [140, 20, 40]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--family", "humanoids"], UnknownNameError, "Did you mean 'humanoid'"),
        (["--family", "cartpole", "--frames", "5"], AdaptError, "render at least 20"),
        (["--family", "cartpole", "--ask", "hot=it glows"], AdaptError, "no fact 'hot'"),
        (["--family", "cartpole", "--tune", "most"], AdaptError, "tune must be full"),
        (["--family", "cartpole", "--lr", "-1"], AdaptError, "lr must lie between"),
        (["--family", "cartpole", "--held-out", "0.9"], AdaptError, "held_out must lie between"),
        (["--family", "cartpole", "--steps", "0"], AdaptError, "steps must be at least 1"),
    ],
)
def test_bad_arguments_are_told_off_in_one_sentence(tiny_clip, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        adapt_command(["--encoder", str(tiny_clip), *arguments, "--retain", "none", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "arguments", [[], ["--family", "cartpole", "--goal", "x"], ["--labels", "x", "--ask", "a=b"], ["--ask", "a"]]
)
def test_arguments_that_do_not_go_together_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        adapt_command([*arguments, "--out", str(tmp_path)])
    assert "error:" in capsys.readouterr().err


def test_only_openclip_encoders_can_be_adapted(tmp_path):
    with pytest.raises(AdaptError, match="'tiny' is a TinyEncoder"):
        adapt(TinyEncoder(), [], tmp_path)

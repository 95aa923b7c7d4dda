"""Every wrong name and every unfit file gives one sentence."""

import json
import shutil
import subprocess
import sys

import huggingface_hub.constants
import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from vrm import load_encoder
from vrm.encoders import loading, openclip
from vrm.errors import CheckpointError, MissingExtraError, UnknownNameError


def refuses(name, error, *parts, **options):
    with pytest.raises(error) as caught:
        load_encoder(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in parts:
        assert part in message
    return message


@pytest.fixture
def copy(models_on_disk, tmp_path):
    def make(source):
        return shutil.copytree(models_on_disk.folder / source, tmp_path / source)

    return make


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vrm-sin", ["Did you mean 'vrm-sim'?", "ARCH/TAG", "hf:org/name"]),
        ("", ["Unknown encoder ''", "ARCH/TAG"]),
        ("ViT-L-14", ["Unknown encoder 'ViT-L-14'", "ViT-L-14/openai"]),
        ("ViT-L-15/openai", ["Unknown folder or OpenCLIP architecture 'ViT-L-15'", "Did you mean", "list_models"]),
        ("zzz/openai", ["Unknown folder or OpenCLIP architecture 'zzz'", "list_models"]),
        ("ViT-L-14/opnai", ["Unknown tag of ViT-L-14 'opnai'", "Did you mean 'openai'?"]),
        ("ViT-L-14/", ["Unknown tag of ViT-L-14 ''"]),
        ("ViT-L-15:/w.pt", ["Unknown folder or OpenCLIP architecture 'ViT-L-15'"]),
        ("ViT-L-14/opnai:/w.pt", ["Did you mean 'openai'?"]),
    ],
)
def test_unknown_names(name, parts):
    refuses(name, UnknownNameError, *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("/no/such/folder", ["'/no/such/folder' does not exist"]),
        ("hf:/no/such/folder", ["'/no/such/folder' does not exist"]),
        ("/w.safetensors", ["which architecture", "'ARCH:/w.safetensors'"]),
        ("ViT-B-32:", ["no path after the colon"]),
        ("ViT-B-32:/no/such.pt", ["'/no/such.pt' does not exist"]),
    ],
)
def test_missing_files(name, parts):
    refuses(name, CheckpointError, *parts)


def test_options(models_on_disk):
    name = models_on_disk.names["open_clip folder"]
    refuses(name, UnknownNameError, "dtype 'fp8'", "bf16", dtype="fp8")
    refuses(name, UnknownNameError, "dtype 'torch.int8'", dtype=torch.int8)
    refuses(name, ValueError, "max_batch must be at least 1, got 0", max_batch=0)
    refuses(name, ValueError, "Device 'nowhere' cannot be used here", device="nowhere")


def test_bundled_encoder_loads_by_name(models_on_disk, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED_FOLDER", models_on_disk.folder / "open_clip")
    assert load_encoder("vrm-sim").name == "vrm-sim"


def test_bundled_encoder_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED_FOLDER", tmp_path / "absent")
    refuses("vrm-sim", CheckpointError, "reinstall vrm")


def test_undownloadable_tag(offline):
    refuses("ViT-L-14/openai", CheckpointError, "timm/vit_large_patch14_clip_224.openai", "'ViT-L-14/openai:/path/to")


def test_undownloadable_repository(offline):
    refuses("hf:org/absent", CheckpointError, "'hf:org/absent' could not be loaded", "local folder")


def test_undownloadable_tokenizer(offline, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {"hf_tokenizer_name": "o/n"}}
    (tmp_path / "tiny-siglip.json").write_text(json.dumps(model))
    open_clip.add_model_config(tmp_path / "tiny-siglip.json")
    refuses(f"tiny-siglip:{tmp_path / 'w.safetensors'}", CheckpointError, "its tokenizer files")


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_truncated_checkpoint(models_on_disk, tmp_path, file):
    damaged = tmp_path / file
    damaged.write_bytes((models_on_disk.folder / file).read_bytes()[:-4000])
    refuses(f"{models_on_disk.arch}:{damaged}", CheckpointError, "cannot be read", str(damaged))


def test_checkpoint_that_would_run_code(models_on_disk, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    refuses(f"{models_on_disk.arch}:{tmp_path / 'evil.pt'}", CheckpointError, "more than tensors")
    assert not (tmp_path / "ran").exists()


def test_checkpoint_without_tensors(models_on_disk, tmp_path):
    torch.save({"step": 3}, tmp_path / "w.pt")
    refuses(f"{models_on_disk.arch}:{tmp_path / 'w.pt'}", CheckpointError, "mapping of names to tensors")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda s: s.pop("visual.proj"), "1 tensors are missing, 0 are unknown"),
        (lambda s: s.update(extra=torch.zeros(1)), "0 tensors are missing, 1 are unknown"),
        # open_clip would silently resize this one
        (lambda s: s.update({"visual.positional_embedding": torch.zeros(50, 32)}), "1 have another shape"),
    ],
)
def test_checkpoint_of_another_architecture(models_on_disk, tmp_path, change, part):
    state = dict(models_on_disk.state)
    change(state)
    torch.save(state, tmp_path / "w.pt")
    refuses(f"{models_on_disk.arch}:{tmp_path / 'w.pt'}", CheckpointError, "another architecture", part)


def test_folder_without_weights(copy):
    folder = copy("open_clip")
    (folder / "open_clip_model.safetensors").unlink()
    refuses(str(folder), CheckpointError, "holds no weights", "open_clip_model.safetensors")


def test_folder_of_transformers_without_prefix(models_on_disk):
    folder = models_on_disk.folder / "hf_clip"
    refuses(str(folder), CheckpointError, "lacks open_clip_config.json", f"'hf:{folder}'")


@pytest.mark.parametrize("text", ["{", "[]", '{"model_cfg": {"embed_dim": 8}}', '{"model_cfg": 3}'])
def test_folder_with_a_damaged_config(copy, text):
    folder = copy("open_clip")
    (folder / "open_clip_config.json").write_text(text)
    refuses(str(folder), CheckpointError, "must be JSON with model_cfg.embed_dim")


@pytest.mark.parametrize(
    "config",
    [
        {"preprocess_cfg": {"resize_mode": "tile"}},
        {"preprocess_cfg": {"mean": [0.5, 0.5]}},
        {"model_cfg": {"embed_dim": 16, "vision_cfg": {"no_such_option": 1}, "text_cfg": {}}},
    ],
)
def test_folder_with_an_impossible_config(models_on_disk, tmp_path, config):
    models_on_disk.write_open_clip(tmp_path / "model", **config)
    refuses(str(tmp_path / "model"), CheckpointError, "could not be built from its config")


def test_folder_may_hold_a_torch_file(models_on_disk, copy):
    folder = copy("open_clip")
    state = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(state, folder / "open_clip_model.pt")
    original = load_encoder(models_on_disk.names["open_clip folder"])
    assert load_encoder(str(folder)).fingerprint == original.fingerprint


def test_tag_gives_a_bare_checkpoint_its_statistics_and_activation(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(openclip, "_assemble", lambda name, cfg, facts, weights, **_: seen.update(cfg | facts))
    openclip.load_architecture("n", "ViT-L-14", "openai", tmp_path, 8)
    assert seen["quick_gelu"] is True
    assert seen["mean"] == (0.48145466, 0.4578275, 0.40821073)
    seen.clear()
    openclip.load_architecture("n", "ViT-L-14", None, tmp_path, 8)
    assert seen["quick_gelu"] is False
    assert "mean" not in seen  # the tags of this architecture disagree
    openclip.load_architecture("n", "ViT-B-16-SigLIP", None, tmp_path, 8)
    assert (seen["mean"], seen["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")


def test_hf_weights_that_do_not_fit(copy):
    folder = copy("hf_clip")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"extra": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    refuses(f"hf:{folder}", CheckpointError, "0 tensors are missing, 1 are unknown", "'extra'")
    state["visual_projection.weight"] = torch.zeros(8, 32)
    state.pop("logit_scale")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refuses(f"hf:{folder}", CheckpointError, "1 tensors are missing", "1 have another shape")


def test_hf_truncated_weights(copy):
    folder = copy("hf_clip")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4000])
    refuses(f"hf:{folder}", CheckpointError, "could not be loaded")


def test_hf_pickled_weights_are_refused(copy):
    folder = copy("hf_clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refuses(f"hf:{folder}", CheckpointError, "safetensors")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_hf_missing_files(copy, file):
    folder = copy("hf_clip")
    (folder / file).unlink()
    refuses(f"hf:{folder}", CheckpointError, str(folder))


@pytest.mark.parametrize(("kind", "part"), [("bert", "no image and text tower"), ("siglip2", "NaFlex")])
def test_hf_other_models(tmp_path, kind, part):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    refuses(f"hf:{tmp_path}", CheckpointError, part)


def test_hf_image_size_must_match(copy):
    folder = copy("hf_siglip")
    path = folder / "preprocessor_config.json"
    numbers = json.loads(path.read_text())
    path.write_text(json.dumps(numbers | {"size": {"height": 64, "width": 64}}))
    refuses(f"hf:{folder}", CheckpointError, "images of side 32", "(64, 64)")


def test_hf_remote_code_is_never_run(copy):
    folder = copy("hf_clip")
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    auto_map = {"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    refuses(f"hf:{folder}", CheckpointError, "could not be loaded")
    assert not (folder / "ran").exists()


def test_missing_transformers(monkeypatch):
    monkeypatch.delitem(sys.modules, "vrm.encoders.hf", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuses("hf:org/name", MissingExtraError, "transformers", "pip install 'vrm[hf]'")


@pytest.mark.parametrize("file", ["vrm_sim", "openclip", "hf"])
def test_configs_name_the_arguments(file, pytestconfig):
    config = yaml.safe_load((pytestconfig.rootpath / "configs" / "encoder" / f"{file}.yaml").read_text())
    assert config.pop("_target_") == "vrm.load_encoder"
    assert set(config) == {"name", "device", "dtype", "compile"}
    assert config["dtype"] in loading.PRECISIONS


RENDERED_FIRST = """
import gymnasium as gym
env = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=32, height=32)
env.reset(seed=0)
env.render()
import vrm
env = vrm.wrap(env, "a pole standing upright")
env.reset(seed=0)
print(env.step(env.action_space.sample())[1])
"""


def test_an_encoder_loads_after_something_was_rendered():
    done = subprocess.run([sys.executable, "-c", RENDERED_FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert -1 <= float(done.stdout) <= 1

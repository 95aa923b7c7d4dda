import json
import sys

import numpy as np
import pytest
import tiny_pipelines
import torch
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion import load_generator, ode, rollout
from vrm.diffusion.adapters.ltx import pack, unpack
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.kernels import ddim
from vrm.errors import CheckpointError, MissingExtraError, PromptError, UnknownNameError

STEPS = 4  # divides the 1000 training timesteps, as schedulers that subtract a fixed stride assume
PAIR = ["a pole", "a cheetah"]
CASES = {
    "modelscope": ("modelscope", {}, 4, (16, 16)),
    "animatediff": ("animatediff", {}, 4, (16, 16)),
    "wan": ("wan", {}, 5, (16, 16)),
    "wan-2.2": ("wan", {"experts": True}, 5, (16, 16)),
    "cogvideox-2b": ("cogvideox", {"rotary": False}, 9, (32, 32)),
    "cogvideox-5b": ("cogvideox", {}, 9, (32, 32)),
    "cogvideox-1.5": ("cogvideox", {"temporal_patch": 2}, 9, (32, 32)),
    "ltx": ("ltx", {}, 9, (32, 32)),
}
TOKENS = {"wan": 512, "cogvideox": 16, "ltx": 128}


def linspace_euler():
    """Euler over the grid that this library uses."""
    import diffusers

    class Scheduler(diffusers.FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, steps, device=None):
            super().set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=device)

    return Scheduler(shift=3.0)


def saved(case, folder):
    """A pipeline with all parts in evaluation mode, and the generator made of its folder."""
    name, arguments, frames, size = CASES[case]
    pipeline = tiny_pipelines.seeded(getattr(tiny_pipelines, name), **arguments)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.save_pretrained(folder)
    return pipeline, load_generator(str(folder), frames=frames, size=size, steps=STEPS, guidance=2.0)


def drawn_by_pipeline(pipeline, case, latents):
    name, _, frames, size = CASES[case]
    if name == "wan":
        pipeline.scheduler = linspace_euler()
    own = {"cogvideox": lambda x: x.transpose(1, 2), "ltx": lambda x: pack(x, 1, 1)}.get(name, lambda x: x)(latents)
    options = {"max_sequence_length": TOKENS[name]} if name in TOKENS else {}
    return pipeline(
        PAIR, height=size[0], width=size[1], num_frames=frames, num_inference_steps=STEPS, guidance_scale=2.0,
        latents=own.clone(), output_type="pt", **options,
    ).frames  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_folder_draws_the_videos_of_its_own_pipeline_and_can_be_tuned(case, tmp_path):
    pipeline, generator = saved(case, tmp_path)
    denoiser = generator.denoiser
    latents = torch.randn(generator.latent_shape(2), generator=torch.Generator().manual_seed(0))
    grid = denoiser.schedule.grid(STEPS)
    guided = {"guidance": 2.0, "null": generator.null(2)}
    path = rollout(denoiser, generator.condition(PAIR), latents, grid, ode, **guided)
    videos = generator.codec.decode(path.x0, clamp="hard")
    torch.testing.assert_close(videos, drawn_by_pipeline(pipeline, case, latents), atol=2e-5, rtol=1e-4)

    base = denoiser.output(latents, grid[1], generator.condition(PAIR))
    denoiser.add_lora(2)
    with denoiser.reference():
        assert torch.equal(denoiser.output(latents, grid[1], generator.condition(PAIR)), base)
    denoiser.enable_checkpointing()
    x0 = denoiser.predict(latents, grid[1], generator.condition(PAIR)).x0
    generator.codec.decode(x0, torch.tensor([1]), checkpoint=True).mean().backward()
    assert sum(float(parameter.grad.norm()) for parameter in denoiser.trainable() if parameter.grad is not None) > 0


def test_half_precision_weights_draw_nearly_the_same(tmp_path):
    _, generator = saved("wan-2.2", tmp_path)
    half = load_generator(str(tmp_path), frames=5, size=(16, 16), steps=STEPS, guidance=2.0, dtype=torch.bfloat16)
    assert half.denoiser.dtype == half.codec.dtype == torch.bfloat16
    video, other = (each.sample(PAIR) for each in (generator, half))
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, video, atol=0.05, rtol=0)
    assert not torch.equal(other, video)


@pytest.mark.parametrize("make", [tiny_wan, tiny_unet])
def test_a_video_depends_on_its_prompt_and_seed_and_on_nothing_else(make):
    generator = make()
    together = generator.sample(PROMPTS[:3], seed=[5, 6, 7], steps=3)
    assert together.shape == (3, 4, 3, 16, 16)
    assert together.dtype == torch.float32
    assert 0 <= float(together.min()) < float(together.max()) <= 1
    torch.testing.assert_close(generator.sample([PROMPTS[1]], seed=6, steps=3), together[1:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(generator.sample(PROMPTS[:3], seed=5, steps=3), together)
    assert not torch.allclose(generator.sample([PROMPTS[1]], seed=8, steps=3), together[1:2], atol=1e-3)
    assert not torch.allclose(generator.sample_latents([PROMPTS[2]], seed=6, steps=3),
                              generator.sample_latents([PROMPTS[1]], seed=6, steps=3), atol=1e-5)  # fmt: skip


def test_a_stochastic_kernel_takes_its_noise_from_the_seed_of_each_video():
    generator = tiny_wan()
    together = generator.sample_latents(PROMPTS[:2], seed=3, steps=3, kernel=ddim(1.0), guidance=2.0)
    alone = generator.sample_latents(PROMPTS[1:2], seed=4, steps=3, kernel=ddim(1.0), guidance=2.0)
    torch.testing.assert_close(alone, together[1:], atol=1e-5, rtol=1e-4)


def test_defaults_give_way_to_what_is_asked():
    generator = tiny_wan().with_defaults(frames=3, size=(8, 16), steps=2)
    assert generator.sample(PROMPTS[:1]).shape == (1, 3, 3, 8, 16)
    assert generator.denoiser.nfe == 2
    assert generator.sample(PROMPTS[:1], frames=5, steps=1, guidance=2.0).shape == (1, 5, 3, 8, 16)
    assert generator.denoiser.nfe == 4
    with pytest.raises(ValueError, match="divisible by 2"):
        generator.with_defaults(size=(9, 16))


def test_any_callable_is_a_text_encoder():
    plain = tiny_wan()
    generator = VideoGenerator(
        plain.denoiser, plain.codec, lambda prompts: Conditions(torch.ones(len(prompts), 2, 32)), plain.defaults
    )
    assert generator.sample(["anything"], steps=1).shape == (1, 4, 3, 16, 16)


@pytest.mark.parametrize("prompts", ["a pole", [], [3]])
def test_prompts_must_be_a_list_of_texts(prompts):
    with pytest.raises(PromptError, match="list of texts"):
        tiny_wan().condition(prompts)


def test_tokens_are_cut_and_put_together_again():
    x = torch.randn(2, 3, 4, 6, 8)
    tokens = pack(x, 2, 2)
    assert tokens.shape == (2, 2 * 3 * 4, 3 * 8)
    assert torch.equal(unpack(tokens, (2, 3, 4), 2, 2), x)


def test_what_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="give a folder"):
        load_generator("vrm-tinny")
    with pytest.raises(CheckpointError, match="no readable model_index"):
        load_generator(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UnknownNameError, match="TextToVideoSDPipeline"):
        load_generator(str(tmp_path))


def test_a_pipeline_that_cannot_be_fetched_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="'nobody/nothing' has no readable"):
        load_generator("nobody/nothing")


def test_without_diffusers_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vrm\[diffusion\]'"):
        load_generator(str(tmp_path))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"needs peft.*vrm\[diffusion\]"):
        tiny_wan().denoiser.add_lora(2)


def test_pickled_weights_are_not_read(tmp_path):
    saved("wan", tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_generator(str(tmp_path))

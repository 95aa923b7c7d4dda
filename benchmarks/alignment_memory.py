"""Step time and peak memory of a reward gradient: chosen frames, chunked and checkpointed, against all frames at once.

Both sides take the same DRaFT-1 step of the same generator on the reward of the same four random frames (SegVR). One
decodes these frames only, one at a time, and computes the activations of the decoder again on the way back; the other
decodes the whole video, keeps all activations and then picks the frames. Each side runs in a process of its own, and
the gradients are compared before the ratios are printed. Memory is what a step adds to models and sampler.

Weights are random. ``--wan-1b`` takes a transformer of the size of Wan 2.1 1.3B with its autoencoder at 480 x 832, in
bf16, which needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from timing import print_table
from torch import Tensor

from vrm.diffusion import Conditions, FlowSchedule, LatentCodec, SamplingDefaults, Segments, VideoGenerator
from vrm.diffusion.adapters import WanDenoiser
from vrm.diffusion.adapters.wan import WanCodec
from vrm.diffusion.aligners import Batch, Training
from vrm.diffusion.aligners.reward_gradient import Climb, RewardGradient
from vrm.diffusion.codec import FrameCodec
from vrm.diffusion.objective import RewardObjective
from vrm.encoders import load_encoder
from vrm.rewards import GoalReward

SIDES = ("chosen", "all")


def build(options: argparse.Namespace) -> VideoGenerator:
    """A generator with random weights, the same in both processes."""
    torch.manual_seed(0)
    if options.wan_1b:
        model = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
        codec: LatentCodec = WanCodec(AutoencoderKLWan())
        width, channels = 4096, 16
    else:
        model = WanTransformer3DModel(
            num_attention_heads=4, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=32, freq_dim=32,
            ffn_dim=384, num_layers=4,
        )  # fmt: skip
        codec = FrameCodec(
            AutoencoderKL(
                block_out_channels=(32, 64, 64),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                norm_num_groups=8,
            )
        )
        width, channels = 32, 4
    assert model.config["in_channels"] == channels
    words = torch.randn(1, 16, width)
    generator = VideoGenerator(
        WanDenoiser(model, FlowSchedule(3.0), "flow"),
        codec,
        lambda prompts: Conditions(words.expand(len(prompts), -1, -1)),
        SamplingDefaults(options.frames, (options.height, options.width), options.steps, 1.0),
    )
    if options.wan_1b:
        generator = generator.to("cuda", torch.bfloat16)
        codec.mean, codec.std = codec.mean.float(), codec.std.float()
    return generator.to("cuda" if torch.cuda.is_available() else "cpu")


def decode_everything(codec: LatentCodec) -> None:
    """Let the codec decode whole videos at once and keep activations, whatever it is asked for."""
    decode = codec.decode

    def whole(latents: Tensor, frames: Tensor, **ignored: Any) -> Tensor:
        return decode(latents)[:, frames]

    codec.decode = whole


def peak() -> float:
    """Most memory so far, in MB: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(options: argparse.Namespace) -> None:
    """Be one side: take steps, print what they cost and write the gradient of the first."""
    generator = build(options)
    if options.side == "all":
        decode_everything(generator.codec)
    encoder = load_encoder("vrm-sim").to(generator.device)
    objective = RewardObjective({"goal": GoalReward(encoder, "a humanoid robot kneeling")})
    training = Training(clip_norm=1e9, checkpoint=options.wan_1b)
    aligner = RewardGradient(generator, objective, training, Climb(Segments(4), chunk=1, checkpoint=True))
    for i, parameter in enumerate(aligner.parameters):  # at zero, half of the gradient would be zero by construction
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data += 0.02 * noise.to(parameter)
    batch = Batch(["a humanoid robot kneeling"] * options.batch)
    gradient: list[Tensor] = []
    seconds: list[float] = []
    with torch.no_grad():  # libraries and the sampler have taken their memory before the step is measured
        aligner.draw(batch)
    before = peak()
    descend = aligner.descend

    def keep() -> None:
        if not gradient:
            gradient.extend(p.grad.float().cpu().flatten() for p in aligner.parameters if p.grad is not None)
        descend()

    aligner.descend = keep
    aligner.rng.manual_seed(1)
    for _ in range(options.repeats):
        start = time.perf_counter()
        aligner.step(batch)
        seconds.append(time.perf_counter() - start)
    save_file({"gradient": torch.cat(gradient)}, options.file)
    print(json.dumps({"seconds": median(seconds), "added": peak() - before, "peak": peak()}))


def main() -> None:
    """Run both sides and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wan-1b", action="store_true", help="the size of Wan 2.1 1.3B at 480 x 832; needs a GPU")
    for name, default in (("frames", 16), ("height", 64), ("width", 64), ("steps", 4), ("batch", 1), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wan_1b:
        if not torch.cuda.is_available():
            sys.exit("--wan-1b needs a GPU, and torch finds none here; leave it out for the small generator.")
        options.frames, options.height, options.width, options.batch = 17, 480, 832, 1
    if options.side:
        torch.set_num_threads(1)
        measure(options)
        return
    found, gradients = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            file = str(Path(folder) / f"{side}.safetensors")
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--file", file]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[side] = json.loads(output.splitlines()[-1])
            gradients[side] = load_file(file)["gradient"]
    error = float((gradients["chosen"] - gradients["all"]).norm() / gradients["all"].norm())
    assert error < (0.05 if options.wan_1b else 1e-3), f"the gradients differ by {error:.2g} of their norm"
    rows = [[side, *(f"{found[side][key]:.2f}" for key in ("seconds", "added", "peak"))] for side in SIDES]
    ratios = [f"{found['all'][key] / found['chosen'][key]:.2f}" for key in ("seconds", "added", "peak")]
    title = f"{options.batch} videos of {options.frames} frames {options.height} x {options.width}, 4 frames judged"
    print_table(title, ["decoding", "s/step", "MB added by a step", "MB peak"], [*rows, ["all / chosen", *ratios]])
    print(f"\ngradients differ by {error:.1e} of their norm")


if __name__ == "__main__":
    main()

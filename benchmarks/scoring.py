"""Clips per second of ``vrm.score`` against two usual ways, with the same encoder and the same frames.

(a) The obvious loop: decord reads the whole clip, PIL prepares each chosen frame, ``open_clip`` encodes clip by clip.
(b) torchmetrics' ``CLIPScore`` per clip, fed with decord's frames, PIL inside its processor.

Also: how near the run comes to its slower half (decoding alone, encoding alone), what the feature cache saves, and
whether memory stays flat (``--memory 2000 --size 128``: the peak after 500 and after 2,000 clips). Clips are rendered
humanoids, one group of pictures each, as generators write them. With ``--encoder ViT-B-32`` the model has ViT-B/32's
size and random weights. ``OMP_WAIT_POLICY=PASSIVE``, which ``vrm score`` sets, is set for all sides.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timing import parse_with, print_table
from torch import Tensor
from torch.nn import functional

import vrm
from vrm.encoders import Encoder, Preprocess
from vrm.frames import from_hwc
from vrm.video import FrameSampler, sample_video, write_video

if TYPE_CHECKING:
    from vrm.encoders.openclip import OpenCLIPEncoder

PROMPT = "a humanoid robot kneeling"
SAMPLER = FrameSampler.parse("segments:8")


def make_clips(folder: Path, count: int, size: int, frames: int = 80) -> list[str]:
    """Render one fall of the humanoid, and write it with another brightness for each clip."""
    from vrm.envs import TASKS

    env = TASKS["humanoid_kneeling"].make(size=size, quality="full")
    env.action_space.seed(0)
    env.reset(seed=0)
    pictures = []
    for step in range(frames):
        env.step(env.action_space.sample() * (step > 10))
        pictures.append(env.render())
    env.close()
    film = from_hwc(np.stack(pictures))
    paths = []
    for i in range(count):
        paths.append(str(folder / f"{i:04d}.mp4"))
        write_video(paths[-1], (film.float() * (0.6 + 0.4 * i / count)).to(torch.uint8), fps=16)
    return paths


def random_vit_b32() -> OpenCLIPEncoder:
    """A model of ViT-B/32's size, with random weights."""
    import open_clip

    from vrm.encoders.openclip import OpenCLIPEncoder

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = Preprocess((224, 224), mean, std, "bicubic", "shortest")
    return OpenCLIPEncoder("ViT-B-32", model, open_clip.get_tokenizer("ViT-B-32"), 512, preprocess)


def prepare(encoder: Encoder, frame: Any) -> Tensor:
    """Resize, crop and normalise a PIL image as ``open_clip``'s transform does."""
    from torchvision.transforms import functional as pil

    size = list(encoder.preprocess.size)
    squash = encoder.preprocess.resize_mode == "squash"
    frame = pil.resize(frame, size if squash else size[:1], pil.InterpolationMode.BICUBIC)
    tensor = pil.to_tensor(pil.center_crop(frame, size))
    return (tensor - encoder.preprocess.mean[0]) / encoder.preprocess.std[0]


def read_all(path: str) -> Any:
    """Every frame of a clip ``(T, H, W, 3)``, by decord; then the sampled ones."""
    import decord

    reader = decord.VideoReader(path)
    frames = reader.get_batch(range(len(reader))).asnumpy()
    return frames[SAMPLER.indices(np.arange(len(frames)) / 16)]


@torch.no_grad()
def obvious_loop(encoder: Encoder, paths: Iterable[str]) -> list[float]:
    """Decode, prepare and encode clip by clip."""
    from PIL import Image

    text = functional.normalize(encoder.text_features([PROMPT]).float(), dim=-1)
    scores = []
    for path in paths:
        pixels = torch.stack([prepare(encoder, Image.fromarray(frame)) for frame in read_all(path)])
        image = functional.normalize(encoder.image_features(pixels), dim=-1)
        scores.append(float((image @ text.T).mean()))
    return scores


class CLIPForTorchmetrics(torch.nn.Module):
    """The encoder with the method names that ``CLIPScore`` calls."""

    config = None

    def __init__(self, encoder: Encoder) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """Image embeddings."""
        return self.encoder.image_features(pixels)

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Text embeddings, of the one prompt as often as it is asked for."""
        return self.encoder.text_features([PROMPT] * len(tokens))


def torchmetrics_loop(encoder: Encoder) -> Callable[[Iterable[str]], list[float]]:
    """Make the loop around ``CLIPScore``."""
    from torchmetrics.multimodal import CLIPScore
    from torchvision.transforms import functional as pil

    def processor(images: list[Tensor] | None = None, text: list[str] | None = None, **_: Any) -> dict[str, Tensor]:
        if images is None:
            return {"input_ids": torch.zeros(len(text or []), 1), "attention_mask": torch.ones(len(text or []), 1)}
        return {"pixel_values": torch.stack([prepare(encoder, pil.to_pil_image(image)) for image in images])}

    metric = CLIPScore(model_name_or_path=lambda: (CLIPForTorchmetrics(encoder), processor))

    def loop(paths: Iterable[str]) -> list[float]:
        scores = []
        for path in paths:
            frames = torch.from_numpy(read_all(path)).permute(0, 3, 1, 2)
            scores.append(float(metric(list(frames), [PROMPT] * len(frames))) / 100)
        return scores

    return loop


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that ``work`` takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def links(folder: Path, paths: list[str], count: int) -> list[Path]:
    """Give the clips other names, because a name is scored once."""
    folder.mkdir()
    made = [folder / f"{i:05d}.mp4" for i in range(count)]
    for i, link in enumerate(made):
        link.symlink_to(paths[i % len(paths)])
    return made


def main() -> None:
    """Measure and print."""
    from vrm.rewards import GoalReward

    options = parse_with(__doc__, clips=40, size=512, memory=0, workers=2)
    encoder = random_vit_b32() if options.encoder == "ViT-B-32" else vrm.load_encoder(options.encoder)
    reward = {"goal": GoalReward(encoder, PROMPT)}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(f"{options.clips} clips of 80 frames, {options.size} pixels, {options.encoder} ...")
        paths = make_clips(root, options.clips, options.size)

        def ours(files: list[str] = paths, **settings: Any) -> list[float]:
            table = vrm.score(files, reward, PROMPT, frames=str(SAMPLER), workers=options.workers, **settings)
            return table["score"].to_pylist()

        obvious_loop(encoder, paths[:2])
        first, ours_scores = timed(lambda: ours(cache=root / "cache"))
        second, _ = timed(lambda: ours(cache=root / "cache"))
        loop, loop_scores = timed(lambda: obvious_loop(encoder, paths))
        with redirect_stderr(open(os.devnull, "w")):
            metrics, metric_scores = timed(lambda: torchmetrics_loop(encoder)(paths))
        samples = [sample_video(path, SAMPLER) for path in paths[:8]]
        decode = timed(lambda: [sample_video(path, SAMPLER) for path in paths])[0] / max(options.workers, 1)
        with torch.no_grad():
            frames = torch.cat([sample.frames for sample in samples])
            encode = timed(lambda: encoder.encode_image(frames))[0] / len(samples) * len(paths)
        rows = [
            ["vrm.score", f"{options.clips / first:.1f}", "1"],
            ["vrm.score, features cached", f"{options.clips / second:.1f}", f"{first / second:.1f}x"],
            ["obvious loop", f"{options.clips / loop:.1f}", f"1/{loop / first:.1f}"],
            ["torchmetrics CLIPScore", f"{options.clips / metrics:.1f}", f"1/{metrics / first:.1f}"],
        ]
        print_table("End to end", ["way", "clips/s", "to vrm.score"], rows)
        print(f"\nslower half alone (decoding {decode:.1f} s, encoding {encode:.1f} s) / vrm.score: "
              f"{max(decode, encode) / first:.2f}")  # fmt: skip
        found = np.array(ours_scores)
        print(f"largest difference of scores to the obvious loop: {np.abs(found - loop_scores).max():.4f}")
        apart = np.abs(found.clip(min=0) - metric_scores).max()  # CLIPScore calls a negative cosine 0
        print(f"largest difference of scores to torchmetrics: {apart:.4f}")
        for count in (options.memory // 4, options.memory) if options.memory else ():
            ours([str(link) for link in links(root / str(count), paths, count)], cache=None)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"peak memory of this process after {count} clips: {peak:.0f} MiB")


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    main()

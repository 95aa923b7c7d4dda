"""Goal image reward: how near a frame is to pictures of the goal in an encoder's space; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.errors import FrameError, UnknownNameError
from vrm.frames import from_hwc
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos, refuse_goals
from vrm.rewards.progress import check_success

Metric = Literal["cosine", "l2"]
RANGES: dict[str, tuple[float, float]] = {"cosine": (-1.0, 1.0), "l2": (-2.0, 0.0)}


class GoalImageReward(RewardModel):
    """Closeness to the mean unit embedding ``g`` of one goal picture or several.

    ============  ===============================================================================================
    metric        reward of a frame with unit embedding ``s``
    ============  ===============================================================================================
    ``"cosine"``  the cosine of ``s`` and ``g``, in [-1, 1]: LIV (Ma et al. 2023, arXiv 2306.00958)
    ``"l2"``      ``-||s - g||``, in [-2, 0]: VIP's value (Ma et al. 2022, arXiv 2210.00030) in a space of unit
                  vectors
    ============  ===============================================================================================

    Both papers pay the difference from frame to frame; that is a transform of this reward. Of one picture both
    metrics order frames alike.

    Args:
        encoder: any image encoder; one trained by time, as in the papers, sees progress best.
        goal_images: ``(G, 3, H, W)`` RGB pictures, or a list of ``(3, H, W)`` ones of different sizes.
        metric: one of the above.

    Raises:
        FrameError: if there is no picture, or one breaks the layout.
        UnknownNameError: if ``metric`` is unknown.

    Attributes:
        found: what :meth:`fit` wants a person to read; empty for a reward made otherwise.

    Example:
        >>> GoalImageReward.from_files(encoder, ["kneeling.png"])  # doctest: +SKIP
    """

    takes_goals = False
    reads_pixels = False
    goal: Tensor

    def __init__(
        self, encoder: Encoder, goal_images: Tensor | Sequence[Tensor], metric: Metric | str = "cosine"
    ) -> None:
        """Embed the pictures."""
        super().__init__()
        if metric not in RANGES:
            raise UnknownNameError("metric", metric, RANGES)
        if len(goal_images) == 0:
            raise FrameError("A goal image reward needs at least one picture, got none.")
        self.encoder, self.metric, self.count = encoder, metric, len(goal_images)
        self.range = RANGES[metric]
        self.found = Findings()
        with torch.no_grad():
            goal = torch.cat([encoder.encode_image(image[None]) for image in goal_images]).mean(dim=0)
        self.register_buffer("goal", goal.cpu())

    @classmethod
    def from_files(cls, encoder: Encoder, images: Sequence[str | Path] | str | Path, metric: str = "cosine") -> Self:
        """Read the pictures from files, such as png or jpg.

        Raises:
            FrameError: if a file is missing or no picture.
        """
        paths = [images] if isinstance(images, str | Path) else images
        return cls(encoder, [_read_image(Path(path).expanduser()) for path in paths], metric)

    @classmethod
    def fit(cls, encoder: Encoder, demos: Sequence[Demo], *, metric: str = "cosine", seed: int = 0) -> Self:
        """Take the last frames of demonstrations as the goal pictures; ``found`` tells how alike they are.

        Args:
            encoder: any image encoder.
            demos: videos that end with the task done.
            metric: as in the constructor.
            seed: not used, since nothing here is random; all kinds of rewards take it.

        Raises:
            DemoError: if there are no demonstrations, one shows a single picture, or is known to fail.
            UnknownNameError: if ``metric`` is unknown.
        """
        check_success(check_demos(demos, cls.__name__))
        reward = cls(encoder, [demo.frames[-1] for demo in demos], metric)
        clips = encode_demos(encoder, demos)
        goal = functional.normalize(reward.goal, dim=-1)
        for name, place in (("start", 0), ("end", -1)):
            reward.found.figures[f"{name}_cosine"] = float(torch.stack([clip[place] for clip in clips]).mv(goal).mean())
        for demo, clip in zip(demos, clips, strict=True):
            if clip[-1] @ goal <= clip[0] @ goal:
                reward.found.notes.append(
                    f"Demonstration {demo.name!r} ends no nearer to the goal than it starts; look at its last frame."
                )
        return reward

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The closeness of each frame as ``{"goal_image": (B, T)}``; arguments as in the base class.

        Raises:
            PromptError: if ``goals`` are given, for the pictures are the goal.
        """
        check_call(clips, goals, state)
        refuse_goals(goals, type(self).__name__)
        image = encode_frames(self.encoder, clips)
        goal = self.goal.to(image.device)
        if self.metric == "cosine":
            return {"goal_image": (image * functional.normalize(goal, dim=-1)).sum(-1)}
        return {"goal_image": -torch.linalg.vector_norm(image - goal, dim=-1)}

    def combine(self, terms: Terms) -> Tensor:
        """The closeness."""
        return terms["goal_image"]

    def config(self) -> dict[str, Any]:
        """The encoder by name, the metric and how many pictures there were; their embedding is saved beside."""
        return {"encoder": self.encoder.name, "metric": self.metric, "count": self.count}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with a black picture, whose embedding loading replaces."""
        reward = cls(
            pick_encoder(config["encoder"], encoder), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), config["metric"]
        )
        reward.count = config["count"]
        return reward


def _read_image(path: Path) -> Tensor:
    """``(3, H, W)`` uint8 RGB; what is transparent becomes white."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except FileNotFoundError:
        raise FrameError(f"Goal image {str(path)!r} does not exist; check the path.") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise FrameError(f"Goal image {str(path)!r} cannot be read as a picture ({error}); save it as png.") from error
    paper = Image.new("RGBA", image.size, "white")
    return from_hwc(np.asarray(Image.alpha_composite(paper, image).convert("RGB")))

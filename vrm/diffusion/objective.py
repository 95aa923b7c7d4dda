"""What an aligner climbs: rewards of generated videos, with gradients through the few frames that must be decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vrm.diffusion.codec import LatentCodec
from vrm.diffusion.frames import AllFrames, FrameSelection
from vrm.errors import UnknownNameError
from vrm.rewards import RewardModel, SegmentalReward
from vrm.rewards.base import Goals, check_taught
from vrm.rewards.segmental import segment_indices

Selections = FrameSelection | Mapping[str, FrameSelection] | None
T = TypeVar("T")


class RewardObjective:
    """Several rewards of one video under its prompt, and their weighted sum.

    A prompt takes the place of the goal of every reward that takes goals. How frames become a number for the video:

    * a reward that judges each frame by itself is asked about the chosen frames and gets ``sum(weights * rewards)``,
      both from the selection;
    * a :class:`~vrm.rewards.SegmentalReward` brings a selection of its own, one random frame per segment, and its own
      aggregate; where a selection is given, that one chooses and weighs, and the image reward inside judges;
    * any other reward scores the chosen frames as if they were the whole clip.

    Args:
        rewards: the library's own, by name, on the device of the generator.
        weights: of the sum, by name; 1 for each by default.
        selection: frames that gradients go through, for all rewards or by name; every frame by default, or a
            segmental reward's own.

    Attributes:
        reward_calls: videos scored so far, times rewards.

    Raises:
        ValueError: if there is no reward, or one needs state values, which a generated video does not have.
        UnknownNameError: if ``weights`` or ``selection`` name a reward that is not there.
        UntaughtError: if a reward has learned nothing yet.

    Example:
        >>> objective = RewardObjective({"goal": GoalReward(encoder, "a dog")})  # doctest: +SKIP
        >>> objective.total(objective.score(videos, prompts))  # (B,)  # doctest: +SKIP
    """

    def __init__(
        self,
        rewards: Mapping[str, RewardModel],
        weights: Mapping[str, float] | None = None,
        selection: Selections = None,
    ) -> None:
        """Check the rewards and freeze their weights."""
        if not rewards:
            raise ValueError("An objective needs at least one reward, got none.")
        for name, reward in rewards.items():
            check_taught(reward)
            if reward.state_keys:
                raise ValueError(
                    f"Reward {name!r} reads the state values {list(reward.state_keys)}, which a generated video does "
                    "not have; use one that looks at frames only."
                )
            reward.requires_grad_(False)
        self.rewards = dict(rewards)
        self.weights = {name: 1.0 for name in rewards} | dict(_known("weight", weights, rewards))
        self.selection = selection
        self.reward_calls = 0

    def require_gradient(self, aligner: str) -> None:
        """Refuse rewards that an aligner which climbs gradients cannot use.

        Raises:
            ValueError: naming the first reward that is not differentiable.
        """
        for name, reward in self.rewards.items():
            if not reward.differentiable:
                raise ValueError(
                    f"{aligner} climbs the gradient of its reward, but {name!r} ({type(reward).__name__}) is not "
                    "differentiable; use aligner=rg_lcd or aligner=prfl, which learn a latent proxy of any reward, or "
                    "an aligner that needs scores only, such as aligner=ddpo."
                )

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum ``(B,)`` of rewards ``(B,)`` by name."""
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum(dim=0)

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What each reward says of whole videos, ``(B,)`` float32, without gradient and without chance.

        Args:
            videos: ``(B, T, 3, H, W)`` in [0, 1].
            prompts: one per video.
        """
        self.reward_calls += len(videos) * len(self.rewards)
        return {name: reward.score(videos, _goals(reward, prompts)) for name, reward in self.rewards.items()}

    def differentiable(
        self,
        latents: Tensor,
        prompts: Sequence[str],
        codec: LatentCodec,
        generator: torch.Generator | None = None,
        *,
        selection: Selections = None,
        chunk: int | None = None,
        checkpoint: bool = True,
    ) -> dict[str, Tensor]:
        """Rewards ``(B,)`` by name of clean latents, with gradients; only chosen frames are decoded, each once.

        Args:
            latents: ``(B, C, T, h, w)``.
            prompts: one per video.
            codec: decodes them.
            generator: draws the frames; the same ones for all videos of the batch.
            selection: replaces the objective's own.
            chunk: frames decoded at once; all by default.
            checkpoint: whether the decoder's activations are forgotten and computed again on the way back.
        """
        total = codec.video_frames(latents.shape[2])
        chosen = {name: (picker, picker.indices(total, generator)) for name, picker in self._pickers(selection).items()}
        needed = torch.unique(torch.cat([indices for _, indices in chosen.values()]))
        frames = codec.decode(latents, needed.to(latents.device), chunk=chunk, checkpoint=checkpoint)
        self.reward_calls += len(latents) * len(self.rewards)
        values = {}
        for name, (picker, indices) in chosen.items():
            picked = frames[:, torch.searchsorted(needed, indices).to(frames.device)]
            values[name] = self._value(name, picked, prompts, picker, indices, total)
        return values

    def _pickers(self, selection: Selections) -> dict[str, FrameSelection]:
        """The selection that serves each reward."""
        given = self.selection if selection is None else selection
        if given is None or isinstance(given, Mapping):
            named = _known("selection", given, self.rewards)
            return {name: named.get(name) or _default(reward) for name, reward in self.rewards.items()}
        return dict.fromkeys(self.rewards, given)

    def _value(
        self, name: str, picked: Tensor, prompts: Sequence[str], picker: FrameSelection, indices: Tensor, total: int
    ) -> Tensor:
        reward = self.rewards[name]
        goals = _goals(reward, prompts)
        if isinstance(picker, _OwnSegments):
            # Shown one frame per segment, the reward takes them all; their numbers tell it how to attenuate.
            numbers = indices.to(picked.device).expand(len(picked), -1)
            state = {"frame_index": numbers, "frame_count": torch.full_like(numbers, total)}
            return reward.score(picked, goals, state)
        judge = reward.image_reward if isinstance(reward, SegmentalReward) else reward
        if judge.window == 1 and judge.granularity == "frame" and judge.causal:
            values: Tensor = judge(picked, goals)
            return (values * picker.weights(indices, total).to(values.device)).sum(dim=1)
        return judge.score(picked, goals)


@dataclass(frozen=True)
class _OwnSegments(FrameSelection):
    """Frames chosen for a segmental reward, which weighs them itself; the middle ones without a generator."""

    count: int = 4

    def indices(self, total: int, generator: torch.Generator | None = None) -> Tensor:
        return segment_indices(total, self.count, generator)


def _default(reward: RewardModel) -> FrameSelection:
    return _OwnSegments(count=reward.count) if isinstance(reward, SegmentalReward) else AllFrames()


def _goals(reward: RewardModel, prompts: Sequence[str]) -> Goals:
    return list(prompts) if reward.takes_goals else None


def _known(what: str, given: Mapping[str, T] | None, rewards: Mapping[str, RewardModel]) -> Mapping[str, T]:
    for name in given or {}:
        if name not in rewards:
            raise UnknownNameError(f"reward in the {what}s", name, rewards)
    return given or {}

"""Contrasting language goals: a good and a bad sentence pull on one probability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from vrm.encoders import Encoder
from vrm.rewards.base import (
    Encoders,
    Goals,
    RewardModel,
    State,
    Terms,
    check_call,
    encode_frames,
    pick_encoder,
    raw_percentiles,
)
from vrm.rewards.goal import check_different, goal_embedding, prompts


def contrast_probability(z: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Contrasting-language-goal reward of Huang et al. 2024 (arXiv 2412.15544, "VLM-RL").

    ``p = 1 - (clip(z, low, high) - low) / (high - low)`` for the contrast ``z = s . negative - s . positive``.

    Args:
        z: contrast of any shape.
        low: contrast at and below which the positive sentence holds for sure.
        high: contrast at and above which the negative one does.

    Returns:
        Values in [0, 1] of the shape of ``z``; 1 means that the positive sentence holds.

    Example:
        >>> contrast_probability(torch.tensor([-0.01, 0.015, 0.05]), 0.0, 0.03)
        tensor([1.0000, 0.5000, 0.0000])
    """
    low, high = torch.as_tensor(low).to(z), torch.as_tensor(high).to(z)
    return 1 - (torch.clamp(z, low, high) - low) / (high - low)


class ContrastiveGoalReward(RewardModel):
    """Probability-like reward in [0, 1]: 1 where the positive sentence fits, 0 where the negative one does.

    The raw contrast stays visible as the term ``"contrast"``. VLM-RL's thresholds 0 and 0.03 belong to one model and
    one camera; :meth:`calibrate` reads them off data instead. Prompt ensembles are normalised means, as in
    :class:`~vrm.rewards.GoalReward`. Gradients are zero outside the thresholds.

    Args:
        encoder: the image-text model.
        positive: one sentence or several that describe the wanted situation.
        negative: one sentence or several that describe the unwanted one.
        low: contrast at and below which the reward is 1.
        high: contrast at and above which the reward is 0.

    Raises:
        PromptError: if a prompt is empty or both are the same.
        ValueError: unless ``low < high``.

    Example:
        >>> reward = ContrastiveGoalReward(  # doctest: +SKIP
        ...     encoder, "the road is clear with no car accidents", "two cars have collided on the road"
        ... ).calibrate(clips)

    Paper: Huang et al., "VLM-RL: A Unified Vision Language Models and Reinforcement Learning Framework for Safe
    Autonomous Driving", arXiv 2412.15544.
    """

    reads_pixels = False
    range = (0.0, 1.0)
    low: Tensor
    high: Tensor

    def __init__(
        self,
        encoder: Encoder,
        positive: str | Sequence[str],
        negative: str | Sequence[str],
        low: float = 0.0,
        high: float = 0.03,
    ) -> None:
        """Check the prompts; they are embedded when first used."""
        super().__init__()
        if not low < high:
            raise ValueError(f"Thresholds need low < high, got low={low} and high={high}.")
        self.positive = prompts("positive goal", positive)
        self.negative = prompts("negative goal", negative)
        check_different("positive", self.positive, "negative", self.negative)
        self.encoder = encoder
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Raw contrast as ``{"contrast": (B, T)}``; ``goals`` replace the positive sentence clip by clip."""
        image = encode_frames(self.encoder, check_call(clips, goals, state))
        positive = goal_embedding(self.encoder, self.positive, goals).to(image.device)
        negative = self.encoder.encode_ensemble(self.negative).to(image.device)
        return {"contrast": (image * (negative - positive)).sum(-1)}

    def combine(self, terms: Terms) -> Tensor:
        """Turn the contrast into the probability."""
        return contrast_probability(terms["contrast"], self.low, self.high)

    def calibrate(self, clips: Tensor | Iterable[Tensor], low: float = 5.0, high: float = 95.0) -> Self:
        """Set the thresholds to the ``low`` and ``high`` percentiles of the contrast over ``clips``.

        Args:
            clips: ``(B, T, 3, H, W)`` clips that show good and bad situations; or several such batches.
            low: percentile of the contrast where the reward reaches 1.
            high: percentile where it reaches 0.

        Returns:
            This reward.

        Raises:
            ValueError: if there are no clips or the contrast hardly varies over them.
        """
        with torch.no_grad():
            raw = (self.terms(batch)["contrast"] for batch in ([clips] if isinstance(clips, Tensor) else clips))
            bottom, top = raw_percentiles(raw, low, high)
        self.low.fill_(bottom)
        self.high.fill_(top)
        return self

    def config(self) -> dict[str, Any]:
        """Constructor arguments with the thresholds in force; the encoder by name."""
        return {
            "encoder": self.encoder.name,
            "positive": self.positive,
            "negative": self.negative,
            "low": self.low.item(),
            "high": self.high.item(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})

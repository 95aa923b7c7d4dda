"""Goal-baseline reward: how close a frame is to a goal sentence, measured away from a neutral one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from vrm.encoders import Encoder
from vrm.errors import PromptError
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


def goal_baseline_reward(image: Tensor, goal: Tensor, baseline: Tensor, alpha: float) -> Tensor:
    """Goal-baseline regularised reward of Rocamonde et al. 2023 (arXiv 2310.12921, section 3, "VLM-RM").

    With ``L`` the line through baseline ``b`` and goal ``g``, the paper projects the image ``s`` part-way onto it::

        R = 1 - 0.5 * || alpha * proj_L(s) + (1 - alpha) * s - g ||^2

    which needs a ``D x D`` matrix. Split ``e = s - g`` into its part along ``u = (g - b) / ||g - b||`` and the rest:
    the projection keeps the first and shrinks the second by ``1 - alpha``, so two dot products are enough::

        R = 1 - 0.5 * [ (1 - alpha)^2 * ||e||^2 + (1 - (1 - alpha)^2) * (e . u)^2 ]

    For unit vectors ``||e||^2 = 2 - 2 s . g``, so ``alpha = 0`` is the cosine; ``alpha = 1`` sees only the direction
    from baseline to goal, and is a parabola that falls again beyond the goal.

    Args:
        image: ``(..., D)`` unit image embeddings.
        goal: ``(D,)`` unit goal embedding, or one per image in a shape that broadcasts.
        baseline: ``(D,)`` unit baseline embedding.
        alpha: strength of the regularisation in [0, 1].

    Returns:
        ``(...)`` rewards in [-1, 1].

    Example:
        >>> s, g, b = torch.tensor([[0.6, 0.0, 0.8], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
        >>> round(goal_baseline_reward(s, g, b, alpha=0.5).item(), 4)
        0.894
    """
    keep = (1 - alpha) ** 2
    cosine = (image * goal).sum(-1)
    along = ((image - goal) * functional.normalize(goal - baseline, dim=-1)).sum(-1)
    return 1 - 0.5 * (keep * (2 - 2 * cosine) + (1 - keep) * along**2)


class GoalReward(RewardModel):
    """Reward of looking like the goal: cosine, or goal-baseline regularised, optionally calibrated to about [0, 1].

    Several prompts make an ensemble: the mean of their unit embeddings, normalised again, so that ``alpha = 0`` is
    exactly a cosine. (VLM-RM uses the mean as it is, which adds a constant and shrinks the reward.)

    The raw value stays visible as the term ``"goal"``. Cosines of one task spread over 0.02-0.05 only;
    :meth:`calibrate` stretches them affinely, without clipping.

    Args:
        encoder: the image-text model.
        goal: one sentence or several that describe the goal.
        baseline: one sentence or several that describe the same scene without the goal; needed for ``alpha > 0``.
        alpha: 0 for the cosine, 1 for the projection onto the direction from baseline to goal.

    Raises:
        PromptError: if a prompt is empty, goal and baseline are the same, or ``alpha > 0`` lacks a baseline.
        ValueError: if ``alpha`` is outside [0, 1].

    Example:
        >>> reward = GoalReward(encoder, "a pole standing upright", "a pole on a cart", alpha=0.5)  # doctest: +SKIP
        >>> reward.calibrate(random_clips)(clips)  # (B, T) rewards, mostly in [0, 1]  # doctest: +SKIP

    Paper: Rocamonde et al., "Vision-Language Models are Zero-Shot Reward Models for RL", arXiv 2310.12921.
    """

    reads_pixels = False
    range = (-1.0, 1.0)
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        encoder: Encoder,
        goal: str | Sequence[str],
        baseline: str | Sequence[str] | None = None,
        alpha: float = 0.0,
    ) -> None:
        """Check the prompts; they are embedded when first used."""
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
        self.goal = prompts("goal", goal)
        self.baseline = None if baseline is None else prompts("baseline", baseline)
        self.alpha = float(alpha)
        if self.baseline is None and alpha > 0:
            raise PromptError(
                f"alpha={alpha} needs a baseline prompt, a neutral sentence like 'a robot'; or use alpha=0."
            )
        if self.baseline is not None:
            check_different("goal", self.goal, "baseline", self.baseline)
        self.encoder = encoder
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Raw reward before calibration as ``{"goal": (B, T)}``; arguments as in the base class."""
        image = encode_frames(self.encoder, check_call(clips, goals, state))
        goal = goal_embedding(self.encoder, self.goal, goals).to(image.device)
        if self.baseline is None:
            return {"goal": (image * goal).sum(-1)}
        baseline = self.encoder.encode_ensemble(self.baseline).to(image.device)
        if self.alpha > 0 and bool(((goal - baseline).norm(dim=-1) < 1e-4).any()):
            raise PromptError(
                f"{self.encoder.name!r} embeds goal {list(goals or self.goal)} and baseline {list(self.baseline)} "
                "to the same vector, so there is no direction between them; word them differently."
            )
        return {"goal": goal_baseline_reward(image, goal, baseline, self.alpha)}

    def combine(self, terms: Terms) -> Tensor:
        """Apply the calibration: ``scale * raw + shift``."""
        raw = terms["goal"]
        return raw * self.scale.to(raw.device) + self.shift.to(raw.device)

    def calibrate(self, clips: Tensor | Iterable[Tensor], low: float = 5.0, high: float = 95.0) -> Self:
        """Map the ``low`` and ``high`` percentiles of the raw reward over ``clips`` to 0 and 1; saved with the reward.

        Args:
            clips: ``(B, T, 3, H, W)`` clips of varied behaviour, such as random rollouts; or several such batches.
            low: percentile that becomes 0.
            high: percentile that becomes 1.

        Returns:
            This reward.

        Raises:
            ValueError: if there are no clips or the raw reward hardly varies over them.
        """
        with torch.no_grad():
            raw = (self.terms(batch)["goal"] for batch in ([clips] if isinstance(clips, Tensor) else clips))
            bottom, top = raw_percentiles(raw, low, high)
        self.scale.fill_(1 / (top - bottom))
        self.shift.fill_(-bottom / (top - bottom))
        return self

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {"encoder": self.encoder.name, "goal": self.goal, "baseline": self.baseline, "alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})


def prompts(role: str, texts: str | Sequence[str]) -> list[str]:
    """Return one sentence or several as a list.

    Raises:
        PromptError: if there is no sentence, or an empty one.
    """
    found = [texts] if isinstance(texts, str) else list(texts)
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise PromptError(f"The {role} must be a sentence or a non-empty list of sentences, got {texts!r}.")
    return found


def check_different(role: str, texts: Sequence[str], other_role: str, others: Sequence[str]) -> None:
    """Refuse two prompt sets that say the same, up to case and spaces.

    Raises:
        PromptError: if they do.
    """
    plain, other = ({" ".join(text.casefold().split()) for text in group} for group in (texts, others))
    if plain == other:
        raise PromptError(f"{role} and {other_role} are both {list(texts)}; they must differ to define a direction.")


def goal_embedding(encoder: Encoder, default: Sequence[str], goals: Goals) -> Tensor:
    """Embed the ``default`` ensemble ``(D,)``, or one goal per clip ``(B, 1, D)`` where ``goals`` are given."""
    return encoder.encode_ensemble(default) if goals is None else encoder.encode_text(goals).unsqueeze(1)

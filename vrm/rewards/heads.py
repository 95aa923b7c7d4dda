"""Published image preference models as rewards: HPSv2, PickScore and the LAION aesthetic predictors.

HPSv2 and PickScore are CLIP models tuned on people's choices; their checkpoints load as encoders::

    HPSv2(load_encoder("ViT-H-14/laion2b_s32b_b79k:/path/HPS_v2.1_compressed.pt"), "a dog runs")
    PickScore(load_encoder("hf:yuvalkirstain/PickScore_v1"), "a dog runs")

The tag names the image statistics, which HPSv2 shares with the model it was tuned from. PickScore's authors take the
image processor and tokenizer of ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``; a local folder must hold those files too.
The aesthetic predictors are small heads on ``"ViT-L-14/openai"`` that read no text.

All judge single images: of a video, put them into :class:`~vrm.rewards.SegmentalReward` or take the mean over frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file
from torch import Tensor

from vrm.encoders import Encoder
from vrm.errors import CheckpointError
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.goal import goal_embedding, prompts

LAYER = re.compile(r"layers\.(\d+)\.(weight|bias)")


class _PreferenceReward(RewardModel):
    """``scale`` times the cosine of image and prompt."""

    reads_pixels = False
    term: ClassVar[str]

    def __init__(self, encoder: Encoder, goal: str | Sequence[str], scale: float) -> None:
        super().__init__()
        self.goal = prompts("goal", goal)
        self.encoder = encoder
        self.scale = scale
        self.range = (-scale, scale)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The score ``(B, T)`` under its own name; arguments as in the base class."""
        image = encode_frames(self.encoder, check_call(clips, goals, state))
        text = goal_embedding(self.encoder, self.goal, goals).to(image.device)
        return {self.term: self.scale * (image * text).sum(-1)}

    def combine(self, terms: Terms) -> Tensor:
        """The term."""
        return terms[self.term]

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {"encoder": self.encoder.name, "goal": self.goal}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build from :meth:`config`."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})


class HPSv2(_PreferenceReward):
    """Human Preference Score v2: the cosine of image and prompt in a tuned OpenCLIP ViT-H-14.

    Real values lie around 0.2 to 0.35. The ``hpsv2`` package returns this number, and its tables show it times 100.

    Args:
        encoder: ``HPS_v2_compressed.pt`` or ``HPS_v2.1_compressed.pt``, loaded as above.
        goal: the prompt; several make an ensemble.

    Raises:
        PromptError: if a prompt is empty.

    Paper: Wu et al., "Human Preference Score v2", arXiv 2306.09341.
    """

    term = "hpsv2"

    def __init__(self, encoder: Encoder, goal: str | Sequence[str]) -> None:
        """Check the prompt; it is embedded when first used."""
        super().__init__(encoder, goal, scale=1.0)


class PickScore(_PreferenceReward):
    """PickScore: ``exp(logit_scale)`` times the cosine of image and prompt in a tuned CLIP ViT-H-14.

    Real values lie around 18 to 24; the difference of two is the log-odds that people prefer one over the other.

    Args:
        encoder: ``PickScore_v1``, loaded as above.
        goal: the prompt; several make an ensemble.
        scale: the factor; by default the model's own. An encoder in bf16 rounds that by up to 2 %, the same for all
            images.

    Raises:
        PromptError: if a prompt is empty.
        CheckpointError: if no ``scale`` is given and the encoder has none.

    Paper: Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation",
    arXiv 2305.01569.
    """

    term = "pickscore"

    def __init__(self, encoder: Encoder, goal: str | Sequence[str], scale: float | None = None) -> None:
        """Check the prompt and read the scale off the model."""
        super().__init__(encoder, goal, _logit_scale(encoder) if scale is None else float(scale))

    def config(self) -> dict[str, Any]:
        """Constructor arguments with the scale in force."""
        return {**super().config(), "scale": self.scale}


class AestheticReward(RewardModel):
    """LAION aesthetic predictor: a linear map from CLIP's unit image embedding to a rating of about 1 to 10.

    Both published forms are read by :meth:`from_checkpoint`: the linear one of 2022, and version 2, whose five linear
    layers have nothing but dropout between them and so are one linear map, to which they are multiplied out.

    Args:
        encoder: the model whose embeddings the head was made for, ``"ViT-L-14/openai"``.
        weight: ``(D,)``.
        bias: scalar.

    Raises:
        ValueError: if ``weight`` does not have the size of the encoder's embeddings.

    Example:
        >>> head = "sac+logos+ava1-l14-linearMSE.pth"
        >>> AestheticReward.from_checkpoint(load_encoder("ViT-L-14/openai"), head)  # doctest: +SKIP

    Source: Schuhmann, "improved-aesthetic-predictor", and LAION, "aesthetic-predictor", GitHub, 2022.
    """

    reads_pixels = False
    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: Encoder, weight: Tensor, bias: Tensor | float) -> None:
        """Keep the map."""
        super().__init__()
        if tuple(weight.shape) != (encoder.embed_dim,):
            raise ValueError(
                f"weight must be ({encoder.embed_dim},) for encoder {encoder.name!r}, got {tuple(weight.shape)}."
            )
        self.encoder = encoder
        self.register_buffer("weight", weight.detach().float().clone())
        self.register_buffer("bias", torch.as_tensor(bias).detach().float().reshape(()).clone())

    @classmethod
    def from_checkpoint(cls, encoder: Encoder, head: str | Path) -> Self:
        """Load a published head: ``sac+logos+ava1-l14-linearMSE.pth`` or ``sa_0_4_vit_l_14_linear.pth``.

        Raises:
            CheckpointError: if the file is missing, damaged, of another layout, or for embeddings of another size.
        """
        path = Path(head).expanduser()
        weight, bias = _multiplied_out(_layers(_read_tensors(path), path), encoder, path)
        return cls(encoder, weight, bias)

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The rating as ``{"aesthetic": (B, T)}``; ``goals`` change nothing."""
        image = encode_frames(self.encoder, check_call(clips, goals, state))
        return {"aesthetic": image @ self.weight.to(image.device) + self.bias.to(image.device)}

    def combine(self, terms: Terms) -> Tensor:
        """The rating."""
        return terms["aesthetic"]

    def config(self) -> dict[str, Any]:
        """The encoder by name; the map is saved beside."""
        return {"encoder": self.encoder.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with an empty map, which loading fills."""
        found = pick_encoder(config["encoder"], encoder)
        return cls(found, torch.zeros(found.embed_dim), 0.0)


def _logit_scale(encoder: Encoder) -> float:
    try:
        return float(encoder.get_parameter("model.logit_scale").detach().float().exp())
    except AttributeError as error:
        raise CheckpointError(
            f"Encoder {encoder.name!r} has no logit_scale to multiply the cosine by; use a CLIP model or give scale=."
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"Aesthetic head {str(path)!r} does not exist; check the path.")
    try:
        is_safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise CheckpointError(
            f"Aesthetic head {str(path)!r} cannot be read ({type(error).__name__}), so it is damaged or holds more "
            "than tensors; fetch it again."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"Aesthetic head {str(path)!r} must be a mapping of names to tensors.")
    if not all(bool(torch.isfinite(v).all()) for v in state.values()):
        raise CheckpointError(f"Aesthetic head {str(path)!r} holds NaN or infinity; fetch it again.")
    return {str(key): value.double() for key, value in state.items()}


def _layers(state: Mapping[str, Tensor], path: Path) -> list[tuple[str, Tensor, Tensor]]:
    """The linear layers in order, as name, weight and bias."""
    prefixes = [""]
    if set(state) != {"weight", "bias"}:
        matches = [LAYER.fullmatch(key) for key in state]
        numbers = sorted({int(match[1]) for match in matches if match})
        prefixes = [f"layers.{number}." for number in numbers]
        expected = {f"{prefix}{part}" for prefix in prefixes for part in ("weight", "bias")}
        if not prefixes or set(state) != expected:
            odd = sorted(set(state) ^ expected)[:1]
            raise CheckpointError(
                f"Aesthetic head {str(path)!r} must hold weight and bias, or layers.N.weight and layers.N.bias for "
                f"each layer N; {odd[0] if odd else 'it is empty'!r} does not fit."
            )
    return [(f"{prefix}weight", state[f"{prefix}weight"], state[f"{prefix}bias"]) for prefix in prefixes]


def _multiplied_out(
    layers: Sequence[tuple[str, Tensor, Tensor]], encoder: Encoder, path: Path
) -> tuple[Tensor, Tensor]:
    """One linear map ``(D,)``, ``()`` from those that follow each other."""
    size = encoder.embed_dim
    weight, bias = torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for place, (name, matrix, shift) in enumerate(layers):
        rows = 1 if place == len(layers) - 1 else shift.numel()
        if tuple(matrix.shape) != (rows, size) or tuple(shift.shape) != (rows,):
            raise CheckpointError(
                f"Aesthetic head {str(path)!r} has {name} {tuple(matrix.shape)} with bias {tuple(shift.shape)} where "
                f"encoder {encoder.name!r} and the layers before need {'1' if rows == 1 else 'any'} x {size}; "
                "use the encoder it was made for."
            )
        size, weight, bias = rows, matrix @ weight, matrix @ bias + shift
    return weight[0], bias[0]

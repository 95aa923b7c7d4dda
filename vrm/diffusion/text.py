"""Text encoders of diffusers pipelines as prompt encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vrm.diffusion.conditions import Conditions

Padding = Literal["kept", "zeroed", "masked"]


class TextTower(nn.Module):
    """A tokenizer and a transformer (CLIP, T5, UMT5) that embed prompts token by token.

    Args:
        tokenizer: of transformers.
        model: its text encoder; frozen.
        length: prompts are padded and cut to so many tokens.
        padding: what becomes of padding: attended to like text (CLIP, CogVideoX), left out of the encoder and set to
            zero (Wan), or hidden from the denoiser by a mask (LTX).
    """

    def __init__(self, tokenizer: Any, model: nn.Module, length: int, padding: Padding = "kept") -> None:
        """Freeze the model."""
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model
        self.length = length
        self.padding = padding
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TextTower:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, prompts: Sequence[str]) -> Conditions:
        """Embed prompts: ``(B, length, D)`` float32."""
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(device)
        mask: Tensor = tokens.attention_mask.bool()
        seen = tokens.attention_mask if self.padding == "zeroed" else None
        embeds: Tensor = self.model(tokens.input_ids, attention_mask=seen)[0].float()
        if self.padding == "zeroed":
            embeds = torch.where(mask[:, :, None], embeds, 0.0)
        return Conditions(embeds, mask if self.padding == "masked" else None)

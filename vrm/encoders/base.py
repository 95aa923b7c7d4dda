"""The encoder contract: images and texts to unit vectors of one space."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from vrm.encoders.preprocess import Preprocess
from vrm.errors import NonFiniteError, PromptError
from vrm.frames import check_frames


class Encoder(nn.Module, ABC):
    """A frozen image-text model whose two towers end in one space of unit vectors.

    Subclasses implement :meth:`image_features` and :meth:`text_features`; preprocessing, chunking, normalisation,
    caching and checks are here, once. Weights never receive gradients; float frames do. The towers stay in evaluation
    mode, also when a reward that holds them is switched to training.

    Attributes:
        name: the string that :func:`vrm.load_encoder` takes.
        embed_dim: size ``D`` of the shared space.
        preprocess: the model's own resize, crop and statistics as one differentiable tensor op.
        max_batch: the most frames sent through the tower at once.
    """

    name: str
    embed_dim: int

    def __init__(self, name: str, embed_dim: int, preprocess: Preprocess, max_batch: int = 1024) -> None:
        """Store the facts that every encoder has."""
        super().__init__()
        self.name = name
        self.embed_dim = embed_dim
        self.preprocess = preprocess
        self.max_batch = max_batch
        self._text_cache: dict[str, Tensor] = {}
        self._ensemble_cache: dict[tuple[str, ...], Tensor] = {}
        self._fingerprint: str | None = None
        self._memo: tuple[Tensor, bool, Tensor] | None = None
        self._memoizing = False
        self._supplied: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Map preprocessed pixels ``(N, C, S, S)`` to features ``(N, D)`` of any norm."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Map texts to features ``(M, D)`` of any norm."""

    def count_tokens(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        """Length of each text in tokens, and how many the text tower reads; None where the tokenizer does not tell."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision the towers run in."""
        return next(self.parameters()).dtype

    def encode_image(self, frames: Tensor) -> Tensor:
        """Embed images.

        Args:
            frames: ``(N, 3, H, W)`` RGB, uint8 in [0, 255] or float in [0, 1], on any device and of any size.

        Returns:
            ``(N, D)`` float32, unit norm; carries gradients to float ``frames`` that require them.

        Raises:
            FrameError: if ``frames`` breaks the layout.
            NonFiniteError: if the model returns NaN or infinity.
        """
        chunks = torch.split(check_frames(frames, 4), self.max_batch)
        return torch.cat([self._embed_chunk(chunk.to(self.device)) for chunk in chunks])

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, each computed once per device and precision, without gradients.

        Args:
            texts: ``M`` texts; a text longer than the model reads is cut, with a warning.

        Returns:
            ``(M, D)`` float32, unit norm.

        Raises:
            PromptError: if ``texts`` is empty, a bare string, or holds an empty text.
            NonFiniteError: if the model returns NaN or infinity.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise PromptError(f"Texts must be a non-empty list of non-empty strings, got {texts!r}.")
        new = [t for t in dict.fromkeys(texts) if t not in self._text_cache]
        for start in range(0, len(new), self.max_batch):
            self._cache_texts(new[start : start + self.max_batch])
        return torch.stack([self._text_cache[t] for t in texts])

    def encode_ensemble(self, texts: Sequence[str]) -> Tensor:
        """Embed a prompt ensemble as one unit vector ``(D,)``: the mean of the unit embeddings, normalised again.

        Computed once, as :meth:`encode_text` is, and with its errors.
        """
        key = tuple(texts)
        if key not in self._ensemble_cache:
            with torch.inference_mode(False), torch.no_grad():
                self._ensemble_cache[key] = nn.functional.normalize(self.encode_text(texts).mean(dim=0), dim=-1)
        return self._ensemble_cache[key]

    @contextmanager
    def memoize(self) -> Iterator[None]:
        """Within this context, :meth:`memoized` embeds the same object once however many rewards ask for it."""
        outermost = not self._memoizing
        self._memoizing = True
        try:
            yield
        finally:
            if outermost:
                self._memoizing, self._memo = False, None

    @contextmanager
    def supply(self, clips: Tensor, features: Tensor) -> Iterator[None]:
        """Within this context, every reward that asks for the features of the very object ``clips`` gets ``features``.

        Rewards then run without the image tower, on features made earlier or read from a cache. One that looks at
        pixels too (:attr:`vrm.rewards.RewardModel.reads_pixels`) needs ``clips`` to be the real frames; for all others
        any clips of the same ``B`` and ``T`` will do.

        Args:
            clips: ``(B, T, 3, H, W)`` frames, as they will be passed to the reward.
            features: ``(B, T, D)`` unit vectors of this encoder; used in float32 on the device of ``clips``.

        Raises:
            ValueError: if ``features`` is not ``(B, T, D)`` for these ``clips`` and this encoder.
        """
        expected = (*clips.shape[:2], self.embed_dim)
        if tuple(features.shape) != expected:
            raise ValueError(
                f"Features of encoder {self.name!r} for these clips must be (B, T, D) = {expected}, "
                f"got {tuple(features.shape)}."
            )
        outer = self._supplied
        self._supplied = (clips, features.to(clips.device, torch.float32))
        try:
            yield
        finally:
            self._supplied = outer

    def supplied(self, clips: Tensor) -> Tensor | None:
        """The features ``(B, T, D)`` that :meth:`supply` gives for the very object ``clips``, else None."""
        return self._supplied[1] if self._supplied is not None and self._supplied[0] is clips else None

    def memoized(self, frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``embed(frames)``, remembered for the same ``frames`` object inside :meth:`memoize`.

        ``embed`` must be the same function of the frames at every call inside one context. What :meth:`supply` gives
        for ``frames`` comes first.
        """
        if (given := self.supplied(frames)) is not None:
            return given
        with_grad = torch.is_grad_enabled()
        if self._memo is not None and self._memo[0] is frames and self._memo[1] == with_grad:
            return self._memo[2]
        features = embed(frames)
        if self._memoizing:
            self._memo = (frames, with_grad, features)
        return features

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the weights or the preprocessing.

        Computed once from the weights as they are at the first call, and again after ``load_state_dict``;
        :func:`vrm.load_encoder` makes that the float32 weights, whatever precision it was asked for.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(self.preprocess).encode())
            for key, value in sorted(self.state_dict().items()):
                digest.update(f"{key}{tuple(value.shape)}".encode())
                digest.update(value.detach().float().cpu().contiguous().numpy())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen encoder has no other."""
        return super().train(False)

    def warn_if_cut(self, texts: Sequence[str]) -> None:
        """Warn about the first of ``texts`` that is longer than the text tower reads."""
        lengths, limit = self.count_tokens(texts) or ([0] * len(texts), 0)
        for text, length in zip(texts, lengths, strict=True):
            if length > limit:
                warnings.warn(
                    f"Encoder {self.name!r} reads {limit} tokens, so the end of {text!r} ({length} tokens) is ignored; "
                    "shorten it.",
                    stacklevel=5,  # past text_features, its two callers here, to who asked for the text
                )
                return

    def _cache_texts(self, texts: list[str]) -> None:
        # Cached tensors outlive the caller's context: made in inference mode they could never join a gradient,
        # made under autocast they would be less precise than the next caller expects.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            features = self._unit(self.text_features(texts), "text")
        self._text_cache.update(zip(texts, features, strict=True))

    def _forget_texts(self) -> None:
        self._text_cache.clear()
        self._ensemble_cache.clear()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # A reward's file holds no encoder weights; loading it must not forget what is known about them.
        if any(key.startswith(prefix) for key in state_dict):
            self._forget_texts()
            self._fingerprint = self._memo = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _embed_chunk(self, frames: Tensor) -> Tensor:
        return self._unit(self.image_features(self.preprocess(frames).to(self.dtype)), "image")

    def _unit(self, features: Tensor, what: str) -> Tensor:
        features = features.float()
        if not torch.isfinite(features.detach()).all():
            raise NonFiniteError(
                f"Encoder {self.name!r} produced NaN or infinity for {what} input in {self.dtype}; "
                "load it with dtype=torch.float32, or check the weights."
            )
        return nn.functional.normalize(features, dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forget_texts()
        self._memo = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

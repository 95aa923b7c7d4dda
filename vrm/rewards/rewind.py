"""Text-conditioned progress, learned from a few demonstrations and their rewound copies (ReWiND)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from vrm.data.demos import Demo
from vrm.encoders import Encoder
from vrm.rewards.base import Encoders, Goals, RewardModel, State, Terms, check_call, encode_frames, pick_encoder
from vrm.rewards.demonstrations import Findings, check_demos, encode_demos
from vrm.rewards.holdout import describe, hold_out, order_figures, seeded_training, train_watched
from vrm.rewards.rewind_data import ClipSampler, Origin, Spans, history_places
from vrm.rewards.told import SHARED_TEXT, told, wrong_texts

CHUNK = 2048  # clips that go through the transformer at once
EXAM = 128  # clips that the held-out loss is computed on


class ProgressTransformer(nn.Module):
    """Causal transformer over a text and the features of frames: progress in (0, 1) at each frame.

    The text comes first, then the frames; only the first frame is marked by a learned vector, so that how much time has
    passed cannot be read off (Zhang et al. 2025, arXiv 2505.10911). Frames are standardised by the mean and spread of
    the training frames, which features of one scene need.

    Args:
        embed_dim: size ``D`` of frame and text features.
        width: of the transformer; its feed-forward layers are four times as wide.
        layers: how many.
        heads: of attention; must divide ``width``.
        dropout: in training.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, embed_dim: int, width: int, layers: int, heads: int, dropout: float = 0.0) -> None:
        """Draw weights from torch's global generator."""
        super().__init__()
        self.register_buffer("centre", torch.zeros(embed_dim))
        self.register_buffer("spread", torch.ones(()))
        self.frame = nn.Linear(embed_dim, width)
        self.text = nn.Linear(embed_dim, width)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        half = width // 2
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, half), nn.LayerNorm(half), nn.GELU(), nn.Linear(half, 1)
        )

    def standardise(self, features: Tensor) -> None:
        """Take the mean ``(D,)`` and the root mean square deviation of training frames ``(M, D)``."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_((features - self.centre).square().mean().sqrt().clamp(min=1e-6))

    def forward(self, frames: Tensor, text: Tensor) -> Tensor:
        """Progress ``(N, n)`` from frames ``(N, n, D)`` and texts ``(N, D)``; each from the frames up to it only."""
        seen = self.frame((frames - self.centre) / self.spread)
        seen = torch.cat([seen[:, :1] + self.first, seen[:, 1:]], dim=1)
        tokens = torch.cat([self.text(text * text.shape[-1] ** 0.5)[:, None], seen], dim=1)
        future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).triu(1)
        for block in self.blocks:
            tokens = block(tokens, src_mask=future, is_causal=True)
        progress: Tensor = torch.sigmoid(self.head(tokens[:, 1:])[..., 0])
        return progress


class RewindReward(RewardModel):
    """Progress in (0, 1) towards what a sentence says, from the last ``window`` frames; made by :meth:`fit`.

    The reward of frame ``t`` is the transformer's progress at it, shown ``frames`` frames spread evenly over the last
    ``window``, or over all there are while the episode is younger. ReWiND spreads 16 frames over the whole episode:
    that is ``window`` at least the length of an episode, with ``origin="clip"`` in :meth:`fit`. The default, 16
    consecutive frames and progress counted from the demonstrations' first frame, lets episodes go on for longer than
    demonstrations do. A clip's score is, as published, its last frame's progress. The published bonus of 64 for success
    is left to composition (:class:`vrm.rewards.Sum`).

    Args:
        encoder: the image-text model, frozen.
        text: the goal where a call gives none.
        frames: number of frames the transformer is shown at most.
        window: number of frames of history they are chosen from, the present one included.
        width: of the transformer; 512 as published, for 768-dimensional features and thousands of videos.
        layers: of the transformer; 4 as published.
        heads: of attention; 8 as published.

    Raises:
        ValueError: if a number is below 1, ``window < frames``, or ``heads`` does not divide ``width``.

    Attributes:
        found: what :meth:`fit` found; absent from a reward that was loaded.

    Example:
        >>> reward = RewindReward.fit(encoder, demos)  # doctest: +SKIP
        >>> reward(clips, goals=["a humanoid robot kneeling"])  # (B, T)  # doctest: +SKIP

    Paper: Zhang et al. 2025, "ReWiND: Language-Guided Rewards Teach Robot Policies without New Demonstrations",
    arXiv 2505.10911.
    """

    reads_pixels = False
    range = (0.0, 1.0)
    found: Findings

    def __init__(
        self,
        encoder: Encoder,
        text: str | None = None,
        frames: int = 16,
        window: int = 16,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        """Build the transformer with random weights, which :meth:`fit` or a file replaces."""
        super().__init__()
        if min(frames, layers, heads) < 1 or width < 2 or window < frames:
            raise ValueError(
                "frames, layers and heads must be at least 1, width at least 2 and window at least frames, got "
                f"frames={frames}, layers={layers}, heads={heads}, width={width}, window={window}."
            )
        if width % heads:
            raise ValueError(f"heads must divide width, got width={width} and heads={heads}.")
        self.encoder = encoder
        self.text = text
        self.frames, self.window = int(frames), int(window)
        self.width, self.layers, self.heads = int(width), int(layers), int(heads)
        with torch.random.fork_rng(devices=[]):
            self.network = ProgressTransformer(encoder.embed_dim, width, layers, heads)
        self.network.requires_grad_(False)
        self.eval()

    @classmethod
    def fit(
        cls,
        encoder: Encoder,
        demos: Sequence[Demo],
        *,
        seed: int = 0,
        text: str | None = None,
        negatives: Sequence[str] | None = None,
        frames: int = 16,
        window: int = 16,
        origin: Origin = "demo",
        rewind: float = 0.8,
        mismatch: float = 0.2,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        steps: int = 600,
        batch: int = 32,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        held_out: float = 0.2,
    ) -> Self:
        """Train on demonstrations of success; keep the state that is best on those held out, and report on them.

        The published run has ``width = 512, layers = 4, heads = 8, batch = 1024, learning_rate = 1e-4``, over 300,000
        steps of a cosine to 1e-5; here the rate falls to a tenth as well. The loss is the mean squared error over all
        frames shown; with ``origin="clip"`` without the first, as published. The released code adds each clip once
        more with another's text, which a larger ``mismatch`` amounts to.

        Args:
            encoder: the image-text model.
            demos: demonstrations of success.
            seed: decides everything that is drawn.
            text: what demonstrations without a text show, and the goal where a call gives none; by default the
                demonstrations' own text if there is one only.
            negatives: sentences that are wrong for every demonstration; by default the other demonstrations' texts, or
                if there are none, sentences about unrelated things (:data:`vrm.rewards.told.UNRELATED`).
            frames: as for the class.
            window: as for the class.
            origin: whether progress counts from the ``"demo"``'s first frame or from the ``"clip"``'s, as published.
            rewind: share of clips that run back at the end.
            mismatch: share of clips told with a wrong text, whose progress is 0.
            width: as for the class.
            layers: as for the class.
            heads: as for the class.
            dropout: in training.
            steps: of the optimiser.
            batch: clips per step.
            learning_rate: at the start.
            weight_decay: of AdamW.
            held_out: share of demonstrations that are held out, at least one unless there is one only.

        Raises:
            DemoError: if there is no demonstration, or one is too short or shows one picture only.
            ValueError: if an option is out of its range.
        """
        check_demos(demos, "RewindReward", frames=3)
        texts = [demo.text or text or SHARED_TEXT for demo in demos]
        known, wrong = wrong_texts(texts, negatives)
        sampler = ClipSampler(
            features=encode_demos(encoder, demos),
            told=encoder.encode_text(known).cpu(),
            own=torch.tensor([known.index(t) for t in texts]),
            wrong=wrong,
            frames=frames,
            window=window,
            rewind=rewind,
            mismatch=mismatch,
            origin=origin,
        )
        reward = cls(encoder, text or (texts[0] if len(wrong) == 1 else None), frames, window, width, layers, heads)
        generator = torch.Generator().manual_seed(seed)
        trained, watched = hold_out(texts, generator, held_out)
        exam = sampler.sample(watched, EXAM, torch.Generator().manual_seed(seed + 1))
        with seeded_training(seed):
            network = ProgressTransformer(encoder.embed_dim, width, layers, heads, dropout)
            network.standardise(torch.cat([sampler.features[i] for i in trained]))
            result = train_watched(
                network,
                lambda: _error(network, *sampler.sample(trained, batch, generator)),
                lambda: _error(network, *exam),
                steps,
                learning_rate,
                weight_decay,
            )
        reward.network.load_state_dict(network.state_dict())
        figures = order_figures(
            reward._judge, [sampler.features[i] for i in watched], sampler.own[watched].tolist(), sampler.told, wrong
        )
        reward.found = describe(result, steps, [demos[i].name for i in watched], len(demos) == 1, figures)
        reward.network.to(encoder.device)
        return reward

    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Progress as ``{"progress": (B, T)}``; arguments as in the base class.

        Raises:
            PromptError: if the reward was fitted to several texts and ``goals`` do not say which one is meant.
        """
        features = encode_frames(self.encoder, check_call(clips, goals, state))
        places, last = history_places(clips.shape[1], self.frames, self.window)
        return {"progress": self._progress(features, places, last, told(self.encoder, self.text, goals, len(clips)))}

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Progress at the last frame, from the frames shown for it alone."""
        check_call(clips, goals, state)
        places, last = (found[-1:] for found in history_places(clips.shape[1], self.frames, self.window))
        if self.window > self.frames and self.encoder.supplied(clips) is None:
            clips, places = clips[:, places[0, : int(last) + 1]], torch.arange(self.frames).clamp(max=int(last))[None]
        features = encode_frames(self.encoder, clips)
        return {
            "progress": self._progress(features, places, last, told(self.encoder, self.text, goals, len(clips)))[:, -1]
        }

    def combine(self, terms: Terms) -> Tensor:
        """The progress."""
        return terms["progress"]

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """Progress at the last frame ``(B,)``, as published."""
        return self.latest(clips, goals, state)["progress"]

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """The score under the term's name."""
        return {"progress": self.score(clips, goals, state)}

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: what was learned is frozen."""
        return super().train(False)

    def config(self) -> dict[str, Any]:
        """Constructor arguments; the encoder by name."""
        return {
            "encoder": self.encoder.name,
            "text": self.text,
            "frames": self.frames,
            "window": self.window,
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build with random weights, which loading replaces."""
        return cls(**{**config, "encoder": pick_encoder(config["encoder"], encoder)})

    def _progress(self, features: Tensor, places: Tensor, last: Tensor, texts: Tensor) -> Tensor:
        """Progress ``(B, R)`` at the last of the frames ``places (R, n)`` of each clip ``features (B, T, D)``."""
        device = self.network.centre.device
        here, texts = features.to(device), texts.to(device)
        per_pass, found = max(1, CHUNK // len(here)), []
        for rows, ends in zip(torch.split(places, per_pass), torch.split(last, per_pass), strict=True):
            shown = here[:, rows.to(device)].flatten(0, 1)
            progress = self.network(shown, texts.repeat_interleave(len(rows), dim=0)).unflatten(0, (len(here), -1))
            found.append(progress[:, torch.arange(len(rows)), ends])
        return torch.cat(found, dim=1).to(features.device)

    def _judge(self, features: Tensor, text: Tensor) -> Tensor:
        return self._progress(features[None], *history_places(len(features), self.frames, self.window), text[None])[0]


def _error(network: ProgressTransformer, shown: Tensor, told: Tensor, spans: Spans) -> Tensor:
    """Mean squared error over the places that count."""
    error = (network(shown, told) - spans.targets).square()
    mean: Tensor = (error * spans.valid).sum() / spans.valid.sum()
    return mean

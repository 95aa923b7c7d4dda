"""Fine-tuning: batches to gradients to checkpoints, resumable, and the best one kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.adapt.data import AdaptError, Captioned, Labelled, Source, Split
from vrm.adapt.loss import contrastive_loss, drift, label_loss
from vrm.adapt.measure import Exam, embed, measure, mixed
from vrm.adapt.tune import RATES, Towers, Trained, Tune
from vrm.encoders.openclip import OpenCLIPEncoder
from vrm.errors import CheckpointError
from vrm.pretrain.images import augment
from vrm.pretrain.recipe import save_atomically
from vrm.video import replacing

LARGEST_SCALE = 100.0  # of cosines, as in CLIP


@dataclass(frozen=True)
class Settings:
    """How an encoder is adapted.

    Attributes:
        tune: ``full``, ``last:K`` or ``lora[:RANK]``.
        towers: which towers are trained.
        steps, batch: length of training, and frames of each source in a step.
        lr: peak learning rate; None for what suits ``tune``: 1e-5 for full, 1e-4 for last, 5e-4 for lora.
        weight_decay: of AdamW.
        retain: weight of the term that holds embeddings of the retention set where they were; 0 for none.
        held_out: share of the episodes or files that only the report sees; half as many choose the checkpoint.
        eval_every: steps between checkpoints.
        grad_checkpointing: whether activations are computed twice to save memory.
        seed: of splits, batches and low-rank weights.

    Raises:
        AdaptError: if a number is out of range.
    """

    tune: str = "last:2"
    towers: Towers = "both"
    steps: int = 1000
    batch: int = 64
    lr: float | None = None
    weight_decay: float = 0.01
    retain: float = 1.0
    held_out: float = 0.2
    eval_every: int = 100
    grad_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        Tune.parse(self.tune)
        for name, low in (("steps", 1), ("batch", 2), ("eval_every", 1), ("retain", 0), ("weight_decay", 0)):
            if not math.isfinite(value := getattr(self, name)) or value < low:
                raise AdaptError(f"{name} must be at least {low}, got {value}.")
        if self.lr is not None and not 0 < self.lr < 1:
            raise AdaptError(f"lr must lie between 0 and 1, got {self.lr}; leave it out for what suits tune.")
        if not 0 < self.held_out < 0.6:
            raise AdaptError(f"held_out must lie between 0 and 0.6, got {self.held_out}.")

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return RATES[Tune.parse(self.tune).kind] if self.lr is None else self.lr


@dataclass
class Progress:
    """Where training stands; everything but the weights.

    Attributes:
        step: steps taken.
        best_step, best_level: the checkpoint that is kept and its level on the choosing part; step 0 is no training.
        curve: step, loss since the last and level of every checkpoint.
    """

    step: int
    best_step: int
    best_level: float
    curve: list[tuple[int, float, float]]


class Trainer:
    """Trains an encoder on sources, from where an earlier attempt was cut off.

    Args:
        encoder: in float32; trained in place.
        sources: what to learn, each with its split.
        retain: what to keep in mind, or None.
        settings: how.
        work: folder of the checkpoint.

    Raises:
        AdaptError: if ``work`` holds the checkpoint of other settings or data, or gradient checkpointing is asked of
            a model that has none.
        MissingExtraError: if ``tune`` needs ``peft``, which is not installed.
    """

    def __init__(
        self,
        encoder: OpenCLIPEncoder,
        sources: Sequence[tuple[Source, Split]],
        retain: Exam | None,
        settings: Settings,
        work: Path,
    ) -> None:
        """Choose the weights and restore the checkpoint, if there is one."""
        self.encoder, self.sources, self.retain, self.settings = encoder, sources, retain, settings
        self._file = work / "checkpoint.pt"
        self._check_same(work / "settings.json")
        self._kept = embed(encoder, retain) if retain else None
        self.trained = Trained(encoder, Tune.parse(settings.tune), settings.towers, settings.seed)
        if settings.grad_checkpointing:
            self._checkpoint_gradients()
        self._weights = list(self.trained.named().values())
        self._texts_frozen = settings.towers == "image"
        self._text_cache: dict[str, Tensor] = {}
        decayed = [p for p in self._weights if p.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": [p for p in self._weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.progress = Progress(0, 0, -math.inf, [])
        self._best = self.trained.copy()
        self._restore()

    def run(self) -> None:
        """Train to the end, and leave the best weights merged into the encoder."""
        settings, progress = self.settings, self.progress
        if not progress.curve:
            self._judge(0, math.nan)
        bar = tqdm(range(progress.step, settings.steps), initial=progress.step, total=settings.steps, desc="adapt")
        losses: list[float] = []
        for step in bar:
            losses.append(self._step(step))
            progress.step = step + 1
            if progress.step % settings.eval_every == 0 or progress.step == settings.steps:
                self._judge(progress.step, float(np.mean(losses)))
                self._save()
                losses = []
            if step % 10 == 0 or progress.step == settings.steps:
                level = progress.curve[-1][2]
                bar.set_postfix(loss=f"{np.mean(losses or [progress.curve[-1][1]]):.3f}", level=f"{level:.3f}")
        self.trained.restore(self._best)
        self.trained.finish()

    def _step(self, step: int) -> float:
        """Take one step; the batch and its distortions are fixed by seed and step."""
        rng = np.random.default_rng([self.settings.seed, step])
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.rate * _schedule(step, self.settings.steps)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(int(rng.integers(2**31)))
            loss = torch.stack([self._source_loss(source, split, rng) for source, split in self.sources]).sum()
            if self.settings.retain and self.retain is not None:
                loss = loss + self.settings.retain * self._retention_loss(rng)
            if not torch.isfinite(loss):
                raise AdaptError(
                    f"The loss became {loss.item()} at step {step}; try a smaller --lr than {self.settings.rate:g}."
                )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            self.encoder.model.get_parameter("logit_scale").clamp_(0, math.log(LARGEST_SCALE))
        return loss.item()

    def _source_loss(self, source: Source, split: Split, rng: np.random.Generator) -> Tensor:
        scale = self.encoder.model.get_parameter("logit_scale").exp()
        if isinstance(source, Labelled):
            rows, labels = source.draw(split.train, self.settings.batch, rng)
            cosines = self._images(augment(source.frames[torch.from_numpy(rows)])) @ self._texts(list(source.labels)).T
            return label_loss(cosines, labels.to(cosines.device), scale)
        assert isinstance(source, Captioned)
        rows = rng.choice(split.train, min(self.settings.batch, len(split.train)), replace=False)
        texts, truth = source.draw(rows, rng)
        image = self._images(augment(source.frames[torch.from_numpy(rows)]))
        return contrastive_loss(scale * image @ self._texts(texts).T, truth.to(image.device))

    def _retention_loss(self, rng: np.random.Generator) -> Tensor:
        """How far a batch of the retention set has moved."""
        assert self.retain is not None
        assert self._kept is not None
        old_images, old_texts = self._kept
        images, texts = (torch.from_numpy(rng.integers(len(o), size=self.settings.batch // 2)) for o in self._kept)
        moved = drift(self._images(self.retain.frames[images]), old_images[images].to(self.encoder.device))
        if self._texts_frozen:
            return moved
        asked = [self.retain.texts[i] for i in texts]
        return moved + drift(self._texts(asked), old_texts[texts].to(self.encoder.device))

    def _images(self, frames: Tensor) -> Tensor:
        with mixed(self.encoder):
            features = self.encoder.image_features(self.encoder.preprocess(frames.to(self.encoder.device)))
        return functional.normalize(features.float(), dim=-1)

    def _texts(self, texts: list[str]) -> Tensor:
        if not self._texts_frozen:
            return self._embed_texts(texts)
        with torch.no_grad():
            if new := [text for text in texts if text not in self._text_cache]:
                self._text_cache.update(zip(new, self._embed_texts(new), strict=True))
        return torch.stack([self._text_cache[text] for text in texts])

    def _embed_texts(self, texts: list[str]) -> Tensor:
        with mixed(self.encoder):
            return functional.normalize(self.encoder.text_features(texts).float(), dim=-1)

    def _judge(self, step: int, loss: float) -> None:
        """Measure on the choosing part, and keep the weights if none were better."""
        self.trained.undo_rounding()
        seed = self.settings.seed
        levels = [measure(self.encoder, s, split.choose, held_out=False, seed=seed).level for s, split in self.sources]
        known = [level for level in levels if not math.isnan(level)]
        level = float(np.mean(known)) if known else 0.0
        self.progress.curve.append((step, loss, level))
        if level > self.progress.best_level:
            self.progress.best_step, self.progress.best_level = step, level
            self._best = self.trained.copy()

    def _save(self) -> None:
        state = {"progress": asdict(self.progress), "weights": self.trained.copy(), "best": self._best}
        save_atomically(state | {"optimiser": self._optimiser.state_dict()}, self._file)

    def _restore(self) -> None:
        if not self._file.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(self._file, weights_only=True, map_location=self.encoder.device)
            self.trained.restore(state["weights"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._best, self.progress = state["best"], Progress(**state["progress"])
        except Exception as error:  # damaged bytes make the reader raise almost anything
            raise CheckpointError(
                f"Checkpoint {str(self._file)!r} is damaged ({type(error).__name__}); delete it to start again."
            ) from error

    def _checkpoint_gradients(self) -> None:
        enable = getattr(self.encoder.model, "set_grad_checkpointing", None)
        if enable is None:
            raise AdaptError(f"{type(self.encoder.model).__name__} has no gradient checkpointing; leave it out.")
        enable(True)

    def _check_same(self, path: Path) -> None:
        """Refuse to go on with what was begun otherwise."""
        asked = asdict(self.settings) | {"encoder": self.encoder.fingerprint}
        asked |= {f"source {source.name}": _digest(source) for source, _ in self.sources}
        asked["retention set"] = (
            hashlib.sha256(self.retain.frames.numpy().tobytes()).hexdigest()[:16] if self.retain else ""
        )
        if self._file.is_file() and path.is_file():
            begun = json.loads(path.read_text())
            for key in {**begun, **asked}:
                if begun.get(key) != asked.get(key):
                    raise AdaptError(
                        f"{str(path.parent)!r} was begun with {key} = {begun.get(key)!r}, not {asked.get(key)!r}; "
                        "ask for the same, or for another --out."
                    )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ".json") as partial:
            partial.write_text(json.dumps(asked, indent=1))


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over a tenth of the steps, then half a cosine to zero."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _digest(source: Source) -> str:
    """Eight bytes that change with the frames and what is known about them."""
    digest = hashlib.sha256(source.frames.numpy().tobytes())
    digest.update(source.groups.tobytes())
    everything = np.arange(len(source.frames))
    for question in source.questions(everything, held_out=False):
        digest.update(question.text.encode() + question.label.tobytes())
    return digest.hexdigest()[:16]

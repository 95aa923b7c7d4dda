"""Fast students of a slow reward: what they see of a frame, and how they learn the teacher's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from vrm.errors import UnknownNameError
from vrm.rewards.preference_losses import bradley_terry_loss
from vrm.rewards.preference_networks import make_heads, restandardise, small_frames
from vrm.rewards.progress import FeatureHead

Form = Literal["table", "classifier", "ranking", "regression"]
FORMS: tuple[Form, ...] = get_args(Form)
MOST_GRADIENT = 10.0  # norm at which gradients are clipped, as ONI's ranking does
NO_CODE = torch.iinfo(torch.int64).max  # fills the places of a table that nothing is in
CHUNK = 1024  # labelled items a network sees at once where its outputs are measured


class Hasher(nn.Module):
    """Whole numbers that are equal for inputs which look alike.

    Frames are averaged over ``cells x cells`` squares and their colours rounded to ``levels``. Features are moved to
    mean 0 and coded by the signs of ``bits`` random directions (SimHash: Charikar 2002; for exploration counts Tang et
    al. 2017, arXiv 1611.04717).

    Args:
        inputs: size ``D`` of features; None for frames.
        cells: squares along a side, for frames.
        levels: of each colour, from 2 to 256, for frames.
        bits: from 1 to 62, for features.
        seed: of the directions, and of the factors that make many rounded colours one number.

    Raises:
        ValueError: if a number is out of its range.
    """

    centre: Tensor
    directions: Tensor
    factors: Tensor

    def __init__(self, inputs: int | None, cells: int = 8, levels: int = 8, bits: int = 24, seed: int = 0) -> None:
        """Draw directions or factors, without touching the global generator."""
        super().__init__()
        if cells < 1 or not 2 <= levels <= 256 or not 1 <= bits <= 62:
            raise ValueError(
                f"cells >= 1, levels in 2..256 and bits in 1..62 are needed, got {cells=}, {levels=}, {bits=}."
            )
        self.inputs, self.cells, self.levels = inputs, cells, levels
        generator = Generator().manual_seed(seed)
        if inputs is None:
            drawn = torch.randint(NO_CODE, (3 * cells * cells,), generator=generator)
            self.register_buffer("factors", drawn | 1)
        else:
            self.register_buffer("centre", torch.zeros(inputs))
            self.register_buffer("directions", torch.randn(inputs, bits, generator=generator))
            self.register_buffer("factors", 2 ** torch.arange(bits))

    def fit_scale(self, inputs: Tensor) -> None:
        """Take the mean of features ``(N, D)``; codes given before no longer hold. Frames have nothing to take."""
        if self.inputs is not None:
            self.centre.copy_(inputs.mean(dim=0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map uint8 frames ``(..., 3, H, W)`` or features ``(..., D)`` to int64 codes ``(...)``."""
        if self.inputs is None:
            parts = small_frames(inputs, self.cells).flatten(-3).long() * self.levels // 256
        else:
            parts = ((inputs - self.centre) @ self.directions > 0).long()
        codes: Tensor = (parts * self.factors).sum(dim=-1)
        return codes


class TableStudent(nn.Module):
    """Remembers the mean of the labels of each code, as ONI's retrieval remembers captions.

    Something never labelled pays the mean of all labels; ONI pays it 0, which is no neutral number for rewards such as
    a cosine.

    Args:
        capacity: the most codes of a :class:`Hasher` remembered, those labelled last.

    Paper: Zheng et al., "Online Intrinsic Rewards for Decision Making Agents from LLM Feedback", arXiv 2410.23022.
    """

    codes: Tensor
    means: Tensor
    otherwise: Tensor

    def __init__(self, capacity: int = 20_000) -> None:
        """Start empty, paying 0."""
        super().__init__()
        self.capacity = capacity
        self.register_buffer("codes", torch.full((capacity,), NO_CODE))
        self.register_buffer("means", torch.zeros(capacity))
        self.register_buffer("otherwise", torch.zeros(()))

    def forward(self, codes: Tensor) -> Tensor:
        """Rewards of codes ``(...)``."""
        places = torch.searchsorted(self.codes, codes).clamp(max=self.capacity - 1)
        return torch.where(self.codes[places] == codes, self.means[places], self.otherwise)

    def learn(self, codes: Tensor, labels: Tensor) -> dict[str, float]:
        """Make the table anew of all labels, oldest first; returns the number of ``codes``."""
        found, place = torch.unique(codes, return_inverse=True)
        totals, counts = labels.new_zeros(len(found)), labels.new_zeros(len(found))
        totals.index_add_(0, place, labels)
        counts.index_add_(0, place, torch.ones_like(labels))
        last = torch.zeros_like(found)
        last.scatter_reduce_(0, place, torch.arange(len(labels), device=labels.device), "amax")
        kept = last.topk(min(self.capacity, len(found))).indices.sort().values  # codes stay in order
        self.codes.fill_(NO_CODE)[: len(kept)] = found[kept]
        self.means.zero_()[: len(kept)] = (totals / counts)[kept]
        self.otherwise.copy_(labels.mean())
        return {"codes": float(len(kept))}


class NetworkStudent(nn.Module):
    """A small network that learns the teacher's numbers, which it pays on the teacher's own scale.

    ==================  =====================================================================  =====================
    form                loss                                                                   reward
    ==================  =====================================================================  =====================
    ``"regression"``    squared error on labels of mean 0 and variance 1                       output, scaled back
    ``"classifier"``    cross-entropy of "above the k-th of ``bins - 1`` edges" for each k,    expected mean of the
                        edges at the labels' quantiles; two bins are ONI's classification      bin
    ``"ranking"``       Bradley-Terry on pairs of labelled items, a tie counting half          output, moved to mean
                        (Motif: Klissarov et al. 2023, arXiv 2310.00166)                       and deviation of labels
    ==================  =====================================================================  =====================

    Args:
        inputs: size ``D`` of features; None for frames.
        form: one of the above.
        size: pixels of the frames that the network sees.
        hidden: sizes of the hidden layers, on features.
        bins: of the classifier, at least 2.
        tie: labels closer than so many of their standard deviations are a tie, in the ranking.
        lr: learning rate of Adam.
        seed: of the first weights.
    """

    edges: Tensor
    means: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        inputs: int | None,
        form: Form,
        *,
        size: int = 64,
        hidden: Sequence[int] = (256,),
        bins: int = 8,
        tie: float = 0.0,
        lr: float = 3e-4,
        seed: int = 0,
    ) -> None:
        """Draw the first weights; until :meth:`learn` everything pays 0."""
        super().__init__()
        self.form, self.tie, self.lr = form, tie, lr
        outputs = bins - 1 if form == "classifier" else 1
        (self.head,) = make_heads(inputs, size, hidden, outputs, 1, seed)
        self.requires_grad_(False)
        if form == "classifier":
            self.register_buffer("edges", torch.zeros(outputs))
            self.register_buffer("means", torch.zeros(bins))
        else:
            self.register_buffer("scale", torch.zeros(()))
            self.register_buffer("shift", torch.zeros(()))
        self._optimizer: torch.optim.Optimizer | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Rewards ``(...)`` of frames ``(..., 3, H, W)`` or features ``(..., D)``."""
        outputs: Tensor = self.head(inputs)
        if self.form == "classifier":
            return self.means[0] + (torch.sigmoid(outputs) * self.means.diff()).sum(dim=-1)
        return outputs[..., 0] * self.scale + self.shift

    def learn(self, inputs: Tensor, labels: Tensor, steps: int, batch: int, generator: Generator) -> dict[str, float]:
        """Train on random batches of all labels; returns the mean ``loss``."""
        self._fit_scale(inputs, labels)
        self.requires_grad_(True)
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        losses = torch.zeros(steps)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                for step in range(steps):
                    chosen = torch.randint(len(labels), (batch,), generator=generator)
                    outputs = self.head(inputs[chosen])
                    loss = self._loss(outputs, labels[chosen], labels.std(correction=0))
                    self._optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    nn.utils.clip_grad_norm_(self.parameters(), MOST_GRADIENT)
                    self._optimizer.step()
                    losses[step] = loss.detach()
        finally:
            self.requires_grad_(False)
        if self.form == "ranking":
            self._match(inputs, labels)
        return {"loss": float(losses.mean())}

    @torch.no_grad()
    def _fit_scale(self, inputs: Tensor, labels: Tensor) -> None:
        if isinstance(self.head, FeatureHead):
            restandardise(self.head, inputs)
        if self.form == "classifier":
            bins = len(self.means)
            self.edges.copy_(torch.quantile(labels[-100_000:], torch.arange(1, bins) / bins))
            place = (labels[:, None] > self.edges).sum(dim=-1)
            for i in range(bins):
                own = labels[place == i]
                # an empty bin, which labels of few values leave, adds nothing to the one below
                self.means[i] = own.mean() if len(own) else (self.means[i - 1] if i else labels.min())
        elif self.form == "regression":
            self.scale.copy_(labels.std(correction=0).clamp(min=1e-6))
            self.shift.copy_(labels.mean())

    def _loss(self, outputs: Tensor, labels: Tensor, spread: Tensor) -> Tensor:
        if self.form == "classifier":
            return functional.binary_cross_entropy_with_logits(outputs, (labels[:, None] > self.edges).float())
        if self.form == "regression":
            return functional.mse_loss(outputs[:, 0], (labels - self.shift) / self.scale)
        half = len(labels) // 2
        gap = labels[:half] - labels[half : 2 * half]
        answers = torch.where(gap.abs() <= self.tie * spread, 0.5, (gap > 0).float())
        return bradley_terry_loss(outputs[:half, 0] - outputs[half : 2 * half, 0], answers).mean()

    @torch.no_grad()
    def _match(self, inputs: Tensor, labels: Tensor) -> None:
        """A ranking knows no scale: give its rewards mean and standard deviation of the labels."""
        outputs = torch.cat([self.head(chunk)[:, 0] for chunk in torch.split(inputs, CHUNK)])
        self.scale.copy_(labels.std(correction=0) / outputs.std(correction=0).clamp(min=1e-6))
        self.shift.copy_(labels.mean() - self.scale * outputs.mean())


def check_form(form: str) -> Form:
    """Return ``form`` if there is such a student.

    Raises:
        UnknownNameError: if not.
    """
    for known in FORMS:
        if form == known:
            return known
    raise UnknownNameError("form", form, FORMS)

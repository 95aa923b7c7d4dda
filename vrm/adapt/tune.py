"""Which weights of an OpenCLIP model are trained: all, the last blocks of its towers, or low-rank additions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vrm.adapt.data import AdaptError
from vrm.encoders.openclip import OpenCLIPEncoder
from vrm.errors import MissingExtraError

Kind = Literal["full", "last", "lora"]
Towers = Literal["both", "image", "text"]
SCALES = ("logit_scale", "logit_bias")
PROJECTIONS = ("proj", "text_projection")
FORMS = "full, last:K or lora[:RANK], for example last:2 or lora:8"
RATES: dict[Kind, float] = {"full": 1e-5, "last": 1e-4, "lora": 5e-4}
RANK = 8
ROUNDED = (".base_layer.in_proj_weight", ".base_layer.out_proj.base_layer.weight")


@dataclass(frozen=True)
class Tune:
    """What to train.

    Attributes:
        kind: all weights, those of the last blocks, or low-rank additions (Hu et al. 2022, LoRA).
        number: blocks of each tower for ``last``, rank for ``lora``.
    """

    kind: Kind
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Tune:
        """Read ``full``, ``last:K`` or ``lora[:RANK]``.

        Raises:
            AdaptError: on anything else.

        Example:
            >>> Tune.parse("lora:16")
            Tune(kind='lora', number=16)
        """
        kind, colon, number = text.partition(":")
        value = RANK if kind == "lora" and not colon else int(number) if number.isdecimal() else 0
        if kind == "full" and not colon:
            return cls("full")
        if kind in get_args(Kind) and kind != "full" and value > 0:
            return cls("last" if kind == "last" else "lora", value)
        raise AdaptError(f"tune must be {FORMS}, got {text!r}.")

    def __str__(self) -> str:
        """Write what :meth:`parse` reads."""
        return self.kind if self.kind == "full" else f"{self.kind}:{self.number}"


class Trained:
    """The trained weights of a model: chosen, saved, restored, and finally part of the model.

    With ``lora`` the model's own weights stay as they are until :meth:`finish` adds the product of the trained ones.

    Args:
        encoder: whose weights; its ``requires_grad`` are set.
        tune: what to train.
        towers: of which towers.
        seed: of the low-rank weights.

    Raises:
        AdaptError: if ``last:K`` asks for more blocks than a tower has, or a tower is not made of blocks.
        MissingExtraError: if ``lora`` is asked for without ``peft``.
    """

    def __init__(self, encoder: OpenCLIPEncoder, tune: Tune, towers: Towers = "both", seed: int = 0) -> None:
        """Choose the weights."""
        self.model = encoder.model
        self._tuner: Any = None
        self._base: dict[str, Tensor] = {}
        parts = tower_modules(self.model, towers)
        self.model.requires_grad_(False)
        if tune.kind == "lora":
            self._add_low_rank(parts, tune.number, seed)
        else:
            for name in {name for prefix, module in parts for name in _chosen(module, prefix, tune)}:
                self.model.get_parameter(name).requires_grad_(True)
        self.model.get_parameter("logit_scale").requires_grad_(True)

    def named(self) -> dict[str, nn.Parameter]:
        """The trained weights by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def counts(self) -> tuple[int, int]:
        """How many numbers are trained, and how many the model has with what was added."""
        sizes = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)

    def copy(self) -> dict[str, Tensor]:
        """Copy the trained weights."""
        return {name: p.detach().clone() for name, p in self.named().items()}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put copied weights back."""
        for name, parameter in self.named().items():
            parameter.copy_(weights[name])

    @torch.no_grad()
    def undo_rounding(self) -> None:
        """Give the frozen weights under low-rank ones their exact values again.

        In an attention layer peft adds the product for each pass and subtracts it afterwards, which rounds every time.
        """
        if self._base:
            own = dict(self.model.named_parameters())
            for name, value in self._base.items():
                own[name].copy_(value)

    def finish(self) -> None:
        """Make what was trained part of the model, under its own names."""
        self.undo_rounding()
        if self._tuner is not None:
            self.model = self._tuner.merge_and_unload()
        self.model.requires_grad_(False)

    def _add_low_rank(self, parts: list[tuple[str, nn.Module]], rank: int, seed: int) -> None:
        try:
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
        except ImportError as error:
            raise MissingExtraError("peft", "adapt", "--tune lora") from error
        names = [name for prefix, module in parts for name in _low_rank_layers(module, prefix)]
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="|".join(re.escape(name) for name in names), bias="none"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._tuner = LoraModel(self.model, config, "default")
        self._base = {n: p.detach().clone() for n, p in self.model.named_parameters() if n.endswith(ROUNDED)}


def tower_modules(model: nn.Module, towers: Towers) -> list[tuple[str, nn.Module]]:
    """Name the modules and loose parameters of the chosen towers, as pairs of a prefix and a module.

    A text tower's parts lie beside ``visual`` in a plain ``CLIP``, so that tower is the model without it.
    """
    image: list[tuple[str, nn.Module]] = [("visual", model.get_submodule("visual"))]
    text: list[tuple[str, nn.Module]] = [("", _Rest(model))]
    return {"image": image, "text": text, "both": image + text}[towers]


class _Rest(nn.Module):
    """Everything of a model but its image tower and its scales; shares the model's own weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, module in model.named_children():
            if name != "visual":
                self.add_module(name, module)
        for name, parameter in model.named_parameters(recurse=False):
            if name not in SCALES:
                self.register_parameter(name, parameter)


def blocks_of(tower: nn.Module) -> tuple[str, list[nn.Module]]:
    """Find the blocks of a tower: the list of equal modules, or stages of a ResNet, that holds most of its weights.

    Returns:
        The name of what holds them and the blocks in order; no blocks if there is no such list.
    """
    embedded = {id(p) for m in tower.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if id(p) not in embedded)

    found: tuple[str, list[nn.Module]] = ("", [])
    for name, module in tower.named_modules():
        children = list(module.children())
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len({type(child) for child in children}) != 1:
            children = [child for label, child in module.named_children() if re.fullmatch(r"(layer|stage)\d", label)]
        if sum(map(size, children)) > sum(map(size, found[1])):
            found = name, children
    return found


def _chosen(tower: nn.Module, prefix: str, tune: Tune) -> set[str]:
    """Names of the weights of a tower that are trained as they are."""
    if tune.kind == "full":
        return {name for name, _ in tower.named_parameters(prefix=prefix)}
    holder, blocks = blocks_of(tower)
    if tune.number > len(blocks):
        where = "image tower" if prefix else "text tower"
        raise AdaptError(
            f"last:{tune.number} asks for more than the {len(blocks)} blocks of the {where}; "
            "ask for fewer, for one tower only, or tune full."
        )
    chosen = {id(p) for block in blocks[-tune.number :] for p in block.parameters()}
    chosen |= {id(p) for p in _behind(tower, holder, blocks[-1])}
    return {name for name, p in tower.named_parameters(prefix=prefix) if id(p) in chosen}


def _behind(tower: nn.Module, holder: str, last: nn.Module) -> Iterator[nn.Parameter]:
    """What acts after the last block: projections, and modules registered after it or after what holds it."""
    path = holder.split(".") if holder else []
    for depth in range(len(path) + 1):
        parent = tower.get_submodule(".".join(path[:depth]))
        inside = parent.get_submodule(path[depth]) if depth < len(path) else last
        children = list(parent.children())
        position = next(i for i, child in enumerate(children) if child is inside)
        for child in children[position + 1 :]:
            yield from () if isinstance(child, nn.Embedding) else child.parameters()
        yield from (p for name, p in parent.named_parameters(recurse=False) if name in PROJECTIONS)


def _low_rank_layers(tower: nn.Module, prefix: str) -> list[str]:
    """Name the layers that get low-rank additions: attention and linear layers, and convolutions without blocks.

    Left out are layers whose weights another module uses without calling them: in attention, and in the attention
    pooling of a ResNet.
    """
    _, blocks = blocks_of(tower)
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.MultiheadAttention)
    if not any(isinstance(m, kinds) for block in blocks for m in block.modules()):
        kinds = (*kinds, nn.Conv2d)
    names, inside = [], set[int]()
    for name, module in tower.named_modules(prefix=prefix):
        if id(module) in inside:
            continue
        if isinstance(module, nn.MultiheadAttention) or type(module).__name__ == "AttentionPool2d":
            inside |= {id(child) for child in module.modules()}
        is_plain = not isinstance(module, nn.MultiheadAttention) or module._qkv_same_embed_dim
        if isinstance(module, kinds) and is_plain and getattr(module, "groups", 1) == 1:
            names.append(name)
    return names

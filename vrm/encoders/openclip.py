"""OpenCLIP models as encoders: folders, tags, and bare checkpoint files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vrm.encoders.base import Encoder
from vrm.encoders.preprocess import Preprocess
from vrm.errors import CheckpointError, UnknownNameError
from vrm.video import replacing

Config = dict[str, Any]

CONFIG_FILE = "open_clip_config.json"
WEIGHT_STEMS = ("open_clip_model", "open_clip_pytorch_model")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# OpenAI's files carry these beside the weights; older conversions of Hugging Face text towers carry the last.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")


class OpenCLIPEncoder(Encoder):
    """An OpenCLIP model, frozen.

    Args:
        name: the string that :func:`vrm.load_encoder` takes.
        model: a ``CLIP``, ``CustomTextCLIP`` or ``CoCa`` of ``open_clip``.
        tokenizer: maps a list of ``M`` texts to token ids ``(M, L)``.
        embed_dim: size of the shared space.
        preprocess: the model's own resize, crop and statistics.
        max_batch: the most frames or texts sent through a tower at once.
        config: OpenCLIP's ``model_cfg`` that ``model`` was built from, without which it cannot be saved.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        embed_dim: int,
        preprocess: Preprocess,
        max_batch: int = 1024,
        config: Config | None = None,
    ) -> None:
        """Freeze ``model`` and keep its tokenizer."""
        super().__init__(name, embed_dim, preprocess, max_batch)
        # convolutions are quicker with channels last, and the features the same but for the last digit
        self.model = model.requires_grad_(False).to(memory_format=torch.channels_last)
        self.tokenizer = tokenizer
        self.config = deepcopy(config)
        self.eval()

    @property
    def image_tower(self) -> nn.Module:
        """The part that ``compile=True`` compiles."""
        tower: nn.Module = self.model.get_submodule("visual")
        return tower

    def image_features(self, pixels: Tensor) -> Tensor:
        """Map preprocessed pixels ``(N, 3, S, S)`` to features ``(N, D)`` of any norm."""
        features: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]  # Module attributes are untyped
        return features

    def count_tokens(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        """Length of each text in tokens, and how many the text tower reads; None for tokenizers that do not tell."""
        if not isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            return None
        limit = int(self.tokenizer([""]).shape[1])
        return [len(self.tokenizer.encode(text)) + 2 for text in texts], limit

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Map texts to features ``(M, D)`` of any norm; warns where a text is longer than the model reads."""
        self.warn_if_cut(texts)
        tokens = self.tokenizer(list(texts))
        features: Tensor = self.model.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return features


def load_folder(name: str, folder: Path, max_batch: int) -> OpenCLIPEncoder:
    """Load a folder that holds ``open_clip_config.json`` and one weight file.

    Raises:
        CheckpointError: if a file is missing, damaged, or does not fit the config.
    """
    config = _read_config(folder)
    return _assemble(
        name,
        config["model_cfg"],
        config.get("preprocess_cfg", {}),
        _find_weights(folder),
        tokenizer_source=f"local-dir:{folder}",
        max_batch=max_batch,
    )


def save_folder(encoder: OpenCLIPEncoder, folder: Path) -> None:
    """Write what :func:`load_folder` reads: the config, the weights in their precision, and tokenizer files if any.

    Raises:
        CheckpointError: if the encoder does not know its ``model_cfg``, or its tokenizer cannot be written.
    """
    save_tokenizer = getattr(encoder.tokenizer, "save_pretrained", None)
    if encoder.config is None:
        raise CheckpointError(f"Encoder {encoder.name!r} has no model_cfg; get it from vrm.load_encoder to save it.")
    if save_tokenizer is None and not isinstance(encoder.tokenizer, open_clip.SimpleTokenizer):
        raise CheckpointError(
            f"Encoder {encoder.name!r} has a {type(encoder.tokenizer).__name__}, which a folder cannot hold; "
            "use a version of the model whose config names an hf_tokenizer_name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if save_tokenizer is not None:
        save_tokenizer(folder)
    weights = {key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()}
    with replacing(folder / f"{WEIGHT_STEMS[0]}.safetensors", ".safetensors") as partial:
        save_file({key: value.clone() for key, value in weights.items()}, partial)
    config = {"model_cfg": encoder.config, "preprocess_cfg": _preprocess_cfg(encoder.preprocess)}
    with replacing(folder / CONFIG_FILE, ".json") as partial:
        partial.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _preprocess_cfg(preprocess: Preprocess) -> Config:
    mean, std = preprocess._stats  # as given: the buffers are rounded to float32
    return {
        "size": preprocess.size,
        "mean": mean,
        "std": std,
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
        "fill_color": round(255 * preprocess.fill),
    }


def load_architecture(name: str, arch: str, tag: str | None, path: Path | None, max_batch: int) -> OpenCLIPEncoder:
    """Load a known architecture with the weights of ``tag``, or with those in ``path``.

    Args:
        name: the string the user gave.
        arch: one of ``open_clip.list_models()``.
        tag: one of the architecture's pretrained tags; with ``path`` it only says which statistics and activation
            the file was trained with. Without it, what all tags of the architecture agree on is taken.
        path: a checkpoint file; the weights of ``tag`` are downloaded if omitted.
        max_batch: the most frames or texts sent through a tower at once.

    Raises:
        UnknownNameError: if ``arch`` or ``tag`` is unknown.
        CheckpointError: if weights or tokenizer cannot be downloaded, or the file is damaged or does not fit.
    """
    _check_known("folder or OpenCLIP architecture", arch, open_clip.list_models(), "open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if tag is not None or path is None:
        _check_known(f"tag of {arch}", tag or "", tags, f"open_clip.list_pretrained_tags_by_model({arch!r})")
    facts = open_clip.get_pretrained_cfg(arch, tag) if tag else _common_facts(arch, tags)
    model_cfg = open_clip.get_model_config(arch)
    # OpenCLIP only warns when a tag was trained with another activation than its architecture names.
    model_cfg["quick_gelu"] = bool(facts.get("quick_gelu") or model_cfg.get("quick_gelu"))
    weights = path or _download(name, facts)
    return _assemble(name, model_cfg, facts, weights, tokenizer_source=arch, max_batch=max_batch)


def _check_known(kind: str, value: str, known: list[str], listing: str) -> None:
    if value not in known:
        nearest = get_close_matches(value, known, n=5, cutoff=0.0)
        raise UnknownNameError(kind, value, nearest, f"These are the nearest of {len(known)}; {listing} lists all.")


def _common_facts(arch: str, tags: list[str]) -> Config:
    facts = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    values = {key: [f.get(key) for f in facts] for key in PREPROCESS_KEYS}
    return {key: v[0] for key, v in values.items() if v and all(x == v[0] for x in v)}


def _download(name: str, facts: Config) -> Path:
    try:
        return Path(open_clip.download_pretrained(facts))
    except Exception as error:  # the hub, urllib and their transports raise unrelated types
        origin = facts.get("hf_hub", "").strip("/") or facts.get("url")
        raise CheckpointError(
            f"The weights of encoder {name!r} could not be downloaded ({type(error).__name__}); without a network, "
            f"fetch {origin!r} on another machine and pass '{name}:/path/to/the/weight/file'."
        ) from error


def _read_config(folder: Path) -> Config:
    path = folder / CONFIG_FILE
    hint = f"; use 'hf:{folder}' for a transformers model" if (folder / "config.json").is_file() else ""
    if not path.is_file():
        raise CheckpointError(f"Folder {str(folder)!r} is no OpenCLIP model, it lacks {CONFIG_FILE}{hint}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        embed_dim, _, _ = (config["model_cfg"][key] for key in ("embed_dim", "vision_cfg", "text_cfg"))
        int(embed_dim)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Config {str(path)!r} must be JSON with model_cfg.embed_dim, .vision_cfg and .text_cfg ({error!r}); "
            "copy the file again from where the model came from."
        ) from error
    return dict(config)


def _find_weights(folder: Path) -> Path:
    names = [stem + suffix for suffix in WEIGHT_SUFFIXES for stem in WEIGHT_STEMS]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"Folder {str(folder)!r} holds no weights; it needs one of {', '.join(names[:4])}.")


def _assemble(
    name: str, model_cfg: Config, preprocess_cfg: Config, weights: Path, *, tokenizer_source: str, max_batch: int
) -> OpenCLIPEncoder:
    state = _read_weights(weights)
    try:
        model = _build(model_cfg)
        preprocess = _preprocess(preprocess_cfg, getattr(model.get_submodule("visual"), "image_size"))  # noqa: B009
        tokenizer = _tokenizer(tokenizer_source, model_cfg["text_cfg"])
    except Exception as error:  # whatever a config makes the towers and tokenizers of three libraries raise
        raise CheckpointError(
            f"Encoder {name!r} could not be built from its config ({_first_line(error)}); "
            "check the config, and that its tokenizer files are in the folder or can be downloaded."
        ) from error
    _load_strictly(model, _normalise(model, state), weights)
    return OpenCLIPEncoder(name, model, tokenizer, int(model_cfg["embed_dim"]), preprocess, max_batch, model_cfg)


def _build(model_cfg: Config) -> nn.Module:
    """Build the towers without weights, as ``open_clip.create_model`` does but without its logged warnings."""
    cfg = deepcopy(model_cfg)
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    is_hf_text = "hf_model_name" in cfg["text_cfg"]
    if is_hf_text:
        cfg["text_cfg"]["hf_model_pretrained"] = False
    is_custom = cfg.pop("custom_text", False) or is_hf_text
    family = open_clip.CLIP
    if is_custom:
        family = open_clip.CoCa if "multimodal_cfg" in cfg else open_clip.CustomTextCLIP
    model: nn.Module = family(**cfg)
    return model


def _preprocess(preprocess_cfg: Config, image_size: int | Sequence[int]) -> Preprocess:
    cfg = merge_preprocess_dict(PreprocessCfg(), preprocess_cfg)
    rows, cols = (image_size, image_size) if isinstance(image_size, int) else image_size
    mean, std = (tuple(v) if isinstance(v, Sequence) else (v,) * 3 for v in (cfg["mean"], cfg["std"]))
    return Preprocess(
        (int(rows), int(cols)),
        mean,
        std,
        "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
        cfg["resize_mode"],
        cfg["fill_color"] / 255,
    )


def _tokenizer(source: str, text_cfg: Config) -> Callable[[list[str]], Tensor]:
    # A config may ask for trust_remote_code in its tokenizer_kwargs; the keyword here overrules it.
    refuse = {"trust_remote_code": False} if text_cfg.get("hf_tokenizer_name") else {}
    tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(source, **refuse)
    return tokenizer


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors only; a file that would need unpickling of anything else is refused."""
    if not path.is_file():
        raise CheckpointError(f"Checkpoint {str(path)!r} does not exist; check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that a TorchScript archive is one, then refuses it
            is_safe = path.suffix == ".safetensors"
            state: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise CheckpointError(
            f"Checkpoint {str(path)!r} cannot be read ({type(error).__name__}), so it is damaged or holds more than "
            "tensors; fetch it again, or convert it to .safetensors where you trust it."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"Checkpoint {str(path)!r} must be a mapping of names to tensors; save a state dict.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _normalise(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what older files and other libraries name differently; shapes stay, so a wrong size is still an error."""
    state = {k: v for k, v in convert_state_dict(model, state).items() if k not in NOT_WEIGHTS}
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for key in {"logit_scale", "logit_bias"} & own.keys() & state.keys():
        state[key] = state[key].reshape(own[key].shape)
    if "logit_bias" in own:
        state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    return state


def _load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or extra or other:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} was made for another architecture: {len(missing)} tensors are missing, "
            f"{len(extra)} are unknown and {len(other)} have another shape, first {(missing + other + extra)[0]!r}; "
            "name the architecture it was trained with."
        )
    model.load_state_dict(state)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error).strip() else ''}"

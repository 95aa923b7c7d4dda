"""CLIP, SigLIP and SigLIP2 models of ``transformers`` as encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrm.encoders.base import Encoder
from vrm.encoders.preprocess import Interpolation, Preprocess, ResizeMode
from vrm.errors import CheckpointError, MissingExtraError, VrmError

try:
    import transformers
except ImportError as missing:
    raise MissingExtraError("transformers", "hf", "An encoder named 'hf:…'") from missing

# PIL's numbers, as image processor configs store them.
INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


class HFEncoder(Encoder):
    """A dual encoder of ``transformers``, frozen.

    Args:
        name: the string that :func:`vrm.load_encoder` takes.
        model: a model with ``get_image_features`` and ``get_text_features``, such as ``CLIPModel``.
        tokenizer: the model's own tokenizer.
        embed_dim: size of the shared space.
        preprocess: the model's own resize, crop and statistics.
        max_batch: the most frames or texts sent through a tower at once.
    """

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, embed_dim: int, preprocess: Preprocess, max_batch: int = 1024
    ) -> None:
        """Freeze ``model`` and read from its config how texts are padded."""
        super().__init__(name, embed_dim, preprocess, max_batch)
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.eval()
        config: Any = model.config
        self.context_length = int(min(config.text_config.max_position_embeddings, tokenizer.model_max_length))
        self.is_siglip = str(config.model_type).startswith("siglip")

    @property
    def image_tower(self) -> nn.Module:
        """The part that ``compile=True`` compiles."""
        return self.model.get_submodule("vision_model")

    def image_features(self, pixels: Tensor) -> Tensor:
        """Map preprocessed pixels ``(N, 3, S, S)`` to features ``(N, D)`` of any norm."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))  # type: ignore[operator]

    def count_tokens(self, texts: Sequence[str]) -> tuple[list[int], int] | None:
        """Length of each text in tokens, and how many the text tower reads."""
        return [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]], self.context_length

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Map texts to features ``(M, D)`` of any norm; warns where a text is longer than the model reads."""
        self.warn_if_cut(texts)
        tokens = self.tokenizer(
            list(texts),
            padding="max_length" if self.is_siglip else True,
            padding_side="right",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        # SigLIP was trained without a mask: its text tower reads the padding too.
        mask = None if self.is_siglip else tokens["attention_mask"].to(self.device)
        ids = tokens["input_ids"].to(self.device)
        return _pooled(self.model.get_text_features(input_ids=ids, attention_mask=mask))  # type: ignore[operator]


def load_hf(name: str, source: str, max_batch: int) -> HFEncoder:
    """Load a repository or local folder of ``transformers`` from safetensors; no code of it is ever run.

    Args:
        name: the string the user gave.
        source: ``"org/name"`` or a folder.
        max_batch: the most frames or texts sent through a tower at once.

    Raises:
        CheckpointError: if files are missing, damaged, cannot be downloaded, or describe no such model.
    """
    source = str(Path(source).expanduser()) if source.startswith("~") else source
    if source.startswith(("/", ".")) and not Path(source).is_dir():
        raise CheckpointError(f"Folder {source!r} does not exist; check the path after 'hf:'.")
    with _one_sentence(name):
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        _check_kind(name, config)
        processors: Any = transformers.AutoImageProcessor  # partly typed, unlike the rest
        numbers = processors.from_pretrained(source, trust_remote_code=False).to_dict()
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = _load_model(name, source)
        preprocess = preprocess_from(name, numbers)
    if preprocess.size != (config.vision_config.image_size,) * 2:
        raise CheckpointError(
            f"Encoder {name!r} takes images of side {config.vision_config.image_size}, but its image processor makes "
            f"{preprocess.size}; correct the size in preprocessor_config.json."
        )
    embed_dim = int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)
    return HFEncoder(name, model, tokenizer, embed_dim, preprocess, max_batch)


def preprocess_from(name: str, numbers: Mapping[str, Any]) -> Preprocess:
    """Translate the numbers of an image processor config.

    Args:
        name: the encoder, for error messages.
        numbers: ``size``, ``resample``, ``image_mean``, ``image_std`` and, for CLIP, ``crop_size``.

    Raises:
        CheckpointError: if they ask for something else than resize, crop and normalise.
    """
    size, crop = dict(numbers["size"]), dict(numbers.get("crop_size") or {})
    edge = size.get("shortest_edge")
    mode: ResizeMode = "shortest" if edge else "squash"
    target = (edge, edge) if edge else (size.get("height", 0), size.get("width", 0))
    crops = bool(numbers.get("do_center_crop"))
    fits = crops == (mode == "shortest") and (not crops or (crop.get("height"), crop.get("width")) == target)
    steps = all(numbers.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize"))
    resample = int(numbers["resample"])
    if not (fits and steps and resample in INTERPOLATIONS and all(target)):
        raise CheckpointError(
            f"The image processor of {name!r} asks for size {size}, crop {crop if crops else None} and resample "
            f"{resample}; known are a shortest edge with a centre crop of that side, or a height and width, "
            "bilinear or bicubic."
        )
    mean, std = tuple(numbers["image_mean"]), tuple(numbers["image_std"])
    return Preprocess((int(target[0]), int(target[1])), mean, std, INTERPOLATIONS[resample], mode, floor_crop=True)


def _check_kind(name: str, config: Any) -> None:
    if config.model_type == "siglip2":
        raise CheckpointError(
            f"Encoder {name!r} is a NaFlex SigLIP2, which takes patches instead of images; "
            "use one of fixed resolution, such as 'hf:google/siglip2-base-patch16-224'."
        )
    if not hasattr(config, "vision_config") or not hasattr(config, "text_config"):
        raise CheckpointError(
            f"Encoder {name!r} is a {config.model_type!r} model, which has no image and text tower; "
            "use a CLIP, SigLIP or SigLIP2 model."
        )


def _load_model(name: str, source: str) -> nn.Module:
    model, report = transformers.AutoModel.from_pretrained(
        source,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # they are refused below, in one sentence
        output_loading_info=True,
    )
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise CheckpointError(f"Encoder {name!r} is a {type(model).__name__}, which has no image and text features.")
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    extra = [key for key in extra if not key.endswith("position_ids")]
    other = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if missing or extra or other:
        raise CheckpointError(
            f"The weights of {name!r} do not fit its config: {len(missing)} tensors are missing, {len(extra)} are "
            f"unknown and {len(other)} have another shape, first {(missing + other + extra)[0]!r}; "
            "put the config and the weights of one model together."
        )
    loaded: nn.Module = model
    return loaded


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turn what ``transformers`` raises into one sentence, and its table of unfit weights into silence."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        yield
    except VrmError:
        raise
    except Exception as error:  # the hub, safetensors, json and each model class raise types of their own
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else ""
        raise CheckpointError(
            f"Encoder {name!r} could not be loaded ({type(error).__name__}: {reason}); it needs config, image "
            "processor, tokenizer and safetensors weights, in a local folder where there is no network."
        ) from error
    finally:
        transformers.logging.set_verbosity(level)


def _pooled(features: Any) -> Tensor:
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return pooled

"""One contract for every route into :func:`vrm.load_encoder`."""

import functools

import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.nn import functional
from torch.nn.functional import normalize

from vrm import load_encoder
from vrm.errors import FrameError, NonFiniteError, PromptError

ROUTES = ["open_clip folder", "bare pt", "bare safetensors", "hf clip", "hf siglip"]
TEXTS = ["a robot standing", "a red ball", "the robot lying on the ground"]


@pytest.fixture(scope="module", params=ROUTES)
def name(request, models_on_disk):
    return models_on_disk.names[request.param]


@pytest.fixture(scope="module")
def encoder(name):
    return load_encoder(name)


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 3, 40, 61), dtype=torch.uint8, generator=generator)


class TestContract:
    def test_images_become_different_unit_vectors(self, encoder, frames):
        features = encoder.encode_image(frames)
        assert features.shape == (7, encoder.embed_dim)
        assert features.dtype == torch.float32
        assert torch.allclose(features.norm(dim=-1), torch.ones(7), atol=1e-5)
        assert torch.pdist(features).min() > 1e-4

    def test_texts_become_different_unit_vectors(self, encoder):
        features = encoder.encode_text(TEXTS)
        assert features.shape == (3, encoder.embed_dim)
        assert features.dtype == torch.float32
        assert torch.allclose(features.norm(dim=-1), torch.ones(3), atol=1e-5)
        assert torch.pdist(features).min() > 1e-4

    def test_batch_equals_singles(self, encoder, frames):
        singles = torch.cat([encoder.encode_image(f[None]) for f in frames])
        assert torch.allclose(encoder.encode_image(frames), singles, atol=1e-5)

    def test_text_batch_equals_singles(self, encoder, name):
        singles = torch.cat([encoder.encode_text([t]) for t in TEXTS])
        assert torch.allclose(load_encoder(name).encode_text(TEXTS), singles, atol=1e-5)

    def test_small_chunks_equal_one_batch(self, encoder, name, frames):
        chunked = load_encoder(name, max_batch=2)
        assert torch.allclose(chunked.encode_image(frames), encoder.encode_image(frames), atol=1e-5)
        assert torch.allclose(chunked.encode_text(TEXTS), encoder.encode_text(TEXTS), atol=1e-5)

    def test_permutation(self, encoder, frames):
        order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        assert torch.allclose(encoder.encode_image(frames[order]), encoder.encode_image(frames)[order], atol=1e-5)

    def test_uint8_equals_float_but_for_the_rounding_of_a_resize(self, encoder, frames):
        fitted = encoder.preprocess.fit(frames)
        assert fitted.dtype == torch.uint8
        assert torch.allclose(encoder.encode_image(fitted), encoder.encode_image(fitted / 255), atol=1e-6)
        assert torch.allclose(encoder.encode_image(fitted), encoder.encode_image(frames), atol=1e-6)
        apart = functional.cosine_similarity(encoder.encode_image(frames), encoder.encode_image(frames / 255))
        assert apart.min() > 0.995

    def test_gradient_reaches_frames_and_not_weights(self, encoder, frames):
        pixels = (frames / 255).requires_grad_()
        encoder.encode_image(pixels)[:, 0].sum().backward()
        assert torch.isfinite(pixels.grad).all()
        assert (pixels.grad != 0).any()
        assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())

    def test_stays_in_evaluation_mode(self, encoder):
        assert not any(m.training for m in encoder.modules())
        assert not encoder.train().training
        assert not any(m.training for m in encoder.modules())

    def test_text_cache(self, name):
        encoder = load_encoder(name)
        with torch.inference_mode():
            first = encoder.encode_text(TEXTS)
        encoder.text_features = None  # a hit must not compute
        again = encoder.encode_text(TEXTS[::-1])
        assert torch.equal(again, first.flip(0))
        assert not again.is_inference()

    def test_text_cache_is_filled_in_full_precision(self, encoder, name):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = load_encoder(name).encode_text(TEXTS)
        assert torch.allclose(features, encoder.encode_text(TEXTS), atol=1e-6)

    def test_memoize(self, encoder, frames):
        calls = []

        def embed(x):
            calls.append(1)
            return encoder.encode_image(x)

        with encoder.memoize():
            assert encoder.memoized(frames, embed) is encoder.memoized(frames, embed)
            assert len(calls) == 1
            with torch.no_grad():
                encoder.memoized(frames, embed)
            assert len(calls) == 2
        encoder.memoized(frames, embed)
        encoder.memoized(frames, embed)
        assert len(calls) == 4

    def test_supplied_features_replace_the_tower_for_that_very_object(self, encoder):
        clips, other = torch.zeros(2, 3, 3, 1, 1), torch.zeros(2, 3, 3, 1, 1)
        features, inner = torch.ones(2, 3, encoder.embed_dim).half(), torch.zeros(2, 3, encoder.embed_dim)

        def embed(x):
            return "embedded"

        with encoder.supply(clips, features):
            assert torch.equal(encoder.memoized(clips, embed), features.float())
            assert encoder.memoized(other, embed) == "embedded"
            with encoder.supply(other, inner), encoder.memoize():
                assert torch.equal(encoder.memoized(other, embed), inner)
            assert torch.equal(encoder.supplied(clips), features.float())
        assert encoder.supplied(clips) is None
        assert encoder.memoized(clips, embed) == "embedded"

    def test_supplied_features_must_fit(self, encoder):
        with (
            pytest.raises(ValueError, match=r"must be \(B, T, D\) = \(2, 3, \d+\), got \(2, 3, 5\)"),
            encoder.supply(torch.zeros(2, 3, 3, 1, 1), torch.zeros(2, 3, 5)),
        ):
            pass

    def test_name_and_fingerprint_reload(self, encoder, name):
        assert encoder.name == name
        assert load_encoder(encoder.name).fingerprint == encoder.fingerprint

    def test_fingerprint_follows_weights(self, name):
        encoder = load_encoder(name)
        before, texts = encoder.fingerprint, encoder.encode_text(TEXTS)
        encoder.load_state_dict({k: v + 0.1 * torch.rand(v.shape) for k, v in encoder.state_dict().items()})
        assert encoder.fingerprint != before  # and a parent's file without encoder weights changes nothing:
        before, known = encoder.fingerprint, encoder._text_cache.copy()
        torch.nn.ModuleDict({"encoder": encoder}).load_state_dict({}, strict=False)
        assert encoder._fingerprint == before
        assert encoder._text_cache.keys() == known.keys()
        assert not torch.allclose(encoder.encode_text(TEXTS), texts)

    @pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16, "fp16"])
    def test_half_precision(self, encoder, name, dtype, frames):
        half = load_encoder(name, dtype=dtype)
        assert half.dtype in (torch.bfloat16, torch.float16)
        assert half.fingerprint == encoder.fingerprint
        for ours, exact in (
            (half.encode_image(frames), encoder.encode_image(frames)),
            (half.encode_text(TEXTS), encoder.encode_text(TEXTS)),
        ):
            assert ours.dtype == torch.float32
            assert torch.allclose(ours.norm(dim=-1), torch.ones(len(ours)), atol=1e-5)
            assert ((ours * exact).sum(-1) > 0.995).all()

    def test_compiled_equals_eager(self, encoder, name, frames, monkeypatch):
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        compiled = load_encoder(name, compile=True)
        assert torch.allclose(compiled.encode_image(frames), encoder.encode_image(frames), atol=1e-5)
        assert compiled.fingerprint == encoder.fingerprint
        assert compiled.image_tower._compiled_call_impl is not None

    def test_nan_weights(self, name, frames):
        encoder = load_encoder(name)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match="produced NaN or infinity for image input"):
            encoder.encode_image(frames)
        with pytest.raises(NonFiniteError, match="produced NaN or infinity for text input"):
            encoder.encode_text(TEXTS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.numpy(), "must be a torch tensor"),
            (lambda f: f.long(), "must be uint8"),
            (lambda f: f.float(), "must lie in"),
            (lambda f: f.permute(0, 2, 3, 1), "channels come last"),
            (lambda f: f[0], "must be"),
            (lambda f: f[:0], "must not be empty"),
            (lambda f: f / 255 * float("nan"), "must lie in"),
        ],
    )
    def test_bad_frames(self, encoder, frames, change, message):
        with pytest.raises(FrameError, match=message):
            encoder.encode_image(change(frames))

    @pytest.mark.parametrize("texts", [[], "a robot", [""], ["a robot", "  "], [3]])
    def test_bad_texts(self, encoder, texts):
        with pytest.raises(PromptError, match="non-empty list of non-empty strings"):
            encoder.encode_text(texts)

    def test_warns_where_a_text_is_cut(self, name):
        with pytest.warns(UserWarning, match=r"reads 12 tokens, so the end of 'robot robot.*\(\d+ tokens\) is ignored"):
            load_encoder(name).encode_text(["robot " * 12 + "lying"])


class TestAgainstTheLibraries:
    """Features equal those that each library's own entry points give, preprocessing included."""

    def test_open_clip(self, models_on_disk, frames):
        folder = models_on_disk.folder / "open_clip"
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        pixels = torch.stack([transform(Image.fromarray(f.permute(1, 2, 0).numpy())) for f in frames])
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
        encoder = load_encoder(str(folder))
        with torch.no_grad():
            images, texts = model.encode_image(pixels), model.encode_text(tokens)
        assert ((normalize(images) * encoder.encode_image(frames)).sum(-1) > 0.999).all()
        assert torch.allclose(normalize(texts), encoder.encode_text(TEXTS), atol=1e-5)

    @pytest.mark.parametrize(("route", "padding"), [("hf clip", True), ("hf siglip", "max_length")])
    def test_hf(self, models_on_disk, frames, route, padding):
        name = models_on_disk.names[route]
        folder = name.removeprefix("hf:")
        model = transformers.AutoModel.from_pretrained(folder).eval()
        pixels = transformers.AutoImageProcessor.from_pretrained(folder)(list(frames), return_tensors="pt")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(TEXTS, padding=padding, truncation=True, max_length=12, return_tensors="pt")
        if route == "hf siglip":
            del tokens["attention_mask"]
        with torch.no_grad():
            output = model(input_ids=tokens["input_ids"], pixel_values=pixels["pixel_values"])
        encoder = load_encoder(name)
        assert ((normalize(output.image_embeds) * encoder.encode_image(frames)).sum(-1) > 0.999).all()
        assert torch.allclose(normalize(output.text_embeds), encoder.encode_text(TEXTS), atol=1e-5)

    def test_siglip_lower_cases(self, models_on_disk):
        encoder = load_encoder(models_on_disk.names["hf siglip"])
        assert torch.equal(*encoder.encode_text(["a Robot", "a robot"]))

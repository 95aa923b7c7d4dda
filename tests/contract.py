"""The contract that every reward model keeps. A new reward joins by one line in ``rewards/test_reward_contract.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import random_clips

from vrm import load_reward
from vrm.encoders import Encoder
from vrm.errors import FrameError, PromptError
from vrm.rewards import RewardModel
from vrm.rewards.base import TERMINATED

Factory = Callable[[Encoder], RewardModel]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def check_reward(factory: Factory, encoder: Encoder, folder: Path) -> None:
    """Run every check below on a fresh reward."""
    for check in CHECKS:
        check(factory(encoder), encoder, folder)


def state_for(model: RewardModel, batch: int, frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {key: torch.rand(batch, frames, generator=generator) for key in model.state_keys}


def rows(state, index):
    return {key: values[index] for key, values in state.items()}


def _shape_dtype_determinism(model, encoder, folder):
    clips = random_clips()
    state = state_for(model, 4, 5)
    terms = model.terms(clips, state=state)
    first = model(clips, state=state)
    assert first.shape == (4, 5)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert torch.equal(first, model(clips, state=state))
    assert torch.equal(first, model.combine(terms))
    assert all(values.shape == (4, 5) for values in terms.values())
    assert model.score(clips, state=state).shape == (4,)


def _batch_equals_singles_and_permutes(model, encoder, folder):
    clips, state = random_clips(), state_for(model, 4, 5)
    together = model(clips, state=state)
    singles = torch.cat([model(clips[i : i + 1], state=rows(state, slice(i, i + 1))) for i in range(4)])
    torch.testing.assert_close(together, singles, **TOLERANCE)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(clips[order], state=rows(state, order)), together[order], **TOLERANCE)


def _prefix_and_window(model, encoder, folder):
    """``r[:, t]`` is the same from any prefix, and from the last ``window`` frames alone, which ``latest`` uses."""
    if not model.causal:  # it is never asked online, which another check makes sure of
        return
    clips, state = random_clips(), state_for(model, 4, 5)
    whole = model(clips, state=state)
    for end in range(1, 6):
        prefix = {key: values[:, :end] for key, values in state.items()}
        torch.testing.assert_close(model(clips[:, :end], state=prefix), whole[:, :end], **TOLERANCE)
        recent = slice(max(end - model.window, 0), end)
        terms = model.latest(clips[:, recent], state={key: values[:, recent] for key, values in state.items()})
        torch.testing.assert_close(model.combine(terms), whole[:, end - 1], **TOLERANCE)


def _integer_frames(model, encoder, folder):
    size = encoder.preprocess.size[0]  # any other would be resized, and rounded
    clips, state = (random_clips(size=size) * 255).round().to(torch.uint8), state_for(model, 4, 5)
    torch.testing.assert_close(model(clips, state=state), model(clips.float() / 255, state=state), **TOLERANCE)


def _gradient_iff_declared(model, encoder, folder):
    clips = random_clips().requires_grad_()
    rewards = model(clips, state=state_for(model, 4, 5))
    assert rewards.requires_grad == model.differentiable
    if model.differentiable:
        rewards.sum().backward()
        assert clips.grad.abs().sum() > 0
        assert all(p.grad is None for p in encoder.parameters())


def _range(model, encoder, folder):
    low, high = model.range
    assert low < high
    rewards = model(random_clips(batch=8), state=state_for(model, 8, 5))
    assert rewards.min() >= low - 1e-5
    assert rewards.max() <= high + 1e-5


def _never_pays_the_first_frame(model, encoder, folder):
    """Online, the first frame of an episode pays nothing and the ``t``-th push pays ``r[:, t]``."""
    from vrm import RewardStream

    if not model.causal:
        with pytest.raises(ValueError, match="future"):
            RewardStream(model, num_envs=2)
        return
    clips, state = random_clips(batch=2), state_for(model, 2, 5)
    stream, whole = RewardStream(model, num_envs=2), model(clips, state=state)
    at = [[{key: float(values[i, t]) for key, values in state.items()} for i in range(2)] for t in range(5)]
    stream.begin(clips[:, 0], at[0])
    for t in range(1, 5):
        paid = stream.push(clips[:, t], torch.zeros(2, dtype=torch.bool), at[t])
        torch.testing.assert_close(paid, whole[:, t].detach(), **TOLERANCE)
        torch.testing.assert_close(model.combine(stream.terms), paid, **TOLERANCE)


def _score_and_dimensions(model, encoder, folder):
    clips, state = random_clips(), state_for(model, 4, 5)
    score, dimensions = model.score(clips, state=state), model.dimensions(clips, state=state)
    assert dimensions
    assert all(values.shape == (4,) and torch.isfinite(values).all() for values in (score, *dimensions.values()))
    single = {key: values[:, :1] for key, values in state.items()}
    assert torch.isfinite(model.score(clips[:, :1], state=single)).all()
    singles = [model.score(clips[i : i + 1], state=rows(state, slice(i, i + 1))) for i in range(4)]
    torch.testing.assert_close(torch.cat(singles), score, **TOLERANCE)


def _features_stand_in_for_pixels(model, encoder, folder):
    """Unless the reward says that it reads pixels, features given beside empty frames are enough."""
    if model.reads_pixels:
        return
    clips, state = random_clips(), state_for(model, 4, 5)
    empty = torch.zeros(4, 5, 3, 1, 1, dtype=torch.uint8)
    with encoder.supply(empty, encoder.encode_image(clips.flatten(0, 1)).unflatten(0, (4, 5))):
        torch.testing.assert_close(model(empty, state=state), model(clips, state=state), **TOLERANCE)
        torch.testing.assert_close(model.score(empty, state=state), model.score(clips, state=state), **TOLERANCE)
        if model.causal:
            expected = model.latest(clips, state=state)
            torch.testing.assert_close(model.latest(empty, state=state), expected, **TOLERANCE)


def _saves_and_loads(model, encoder, folder):
    clips, state = random_clips(), state_for(model, 4, 5)
    path = folder / "reward.safetensors"
    model.save(path)
    again = load_reward(path, encoder)
    assert type(again) is type(model)
    assert (again.window, again.causal, again.range) == (model.window, model.causal, model.range)
    assert torch.equal(again(clips, state=state), model(clips, state=state))
    assert [p.name for p in folder.iterdir()] == ["reward.safetensors"]
    path.unlink()


def _refuses_wrong_calls(model, encoder, folder):
    state = state_for(model, 4, 5)
    with pytest.raises(FrameError, match="Frames must be"):
        model(random_clips()[:, 0], state=state)
    with pytest.raises(FrameError, match=r"must lie in \[0, 1\]"):
        model(random_clips() * 255, state=state)
    with pytest.raises(PromptError, match="one text per clip"):
        model(random_clips(), goals=["only one"], state=state)
    if not model.takes_goals:
        with pytest.raises(PromptError, match="reads no text"):
            model(random_clips(), goals=["a sentence"] * 4, state=state)
    for key in model.state_keys:
        if key != TERMINATED:
            with pytest.raises(ValueError, match=f"reads state '{key}'"):
                model(random_clips(), state={k: v for k, v in state.items() if k != key})
        with pytest.raises(ValueError, match="NaN or infinity"):
            model(random_clips(), state={**state, key: torch.full((4, 5), float("nan"))})


CHECKS = (
    _shape_dtype_determinism,
    _batch_equals_singles_and_permutes,
    _prefix_and_window,
    _integer_frames,
    _gradient_iff_declared,
    _range,
    _never_pays_the_first_frame,
    _score_and_dimensions,
    _features_stand_in_for_pixels,
    _saves_and_loads,
    _refuses_wrong_calls,
)

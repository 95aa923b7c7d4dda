"""Samplers read from a spec choose the frames they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrm.video import FrameSampler

SECONDS = np.arange(120) / 24  # 5 seconds at 24 frames per second

SPECS = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["uniform", "middle", "segments"]), st.integers(1, 40)),
    st.builds("stride:{}".format, st.integers(1, 40)),
    st.builds("{}:{:.3f}".format, st.sampled_from(["fps", "seconds"]), st.floats(0.01, 60)),
    st.builds("all,max={}".format, st.integers(1, 40)),
    st.builds("fps:{},max={}".format, st.integers(1, 60), st.integers(1, 40)),
    st.just("all"),
)
TIMES = st.lists(st.floats(0.001, 3), min_size=0, max_size=80).map(lambda gaps: np.cumsum([0, *gaps]))


@pytest.mark.parametrize(
    ("spec", "indices"),
    [
        ("uniform:8", [0, 17, 34, 51, 68, 85, 102, 119]),
        ("middle:8", [7, 22, 37, 52, 67, 82, 97, 112]),
        ("segments:8", [7, 22, 37, 52, 67, 82, 97, 112]),
        ("fps:2", [0, 12, 24, 36, 48, 60, 72, 84, 96, 108]),
        ("fps:2,max=3", [0, 48, 108]),
        ("seconds:1", [0, 24, 48, 72, 96]),
        ("seconds:2", [0, 48, 96]),
        ("stride:40", [0, 40, 80]),
        ("all,max=5", [0, 30, 60, 89, 119]),
        ("all", list(range(120))),
    ],
)
def test_known_choices(spec, indices):
    assert FrameSampler.parse(spec).indices(SECONDS) == indices


def test_a_short_clip_repeats_frames():
    assert FrameSampler.parse("uniform:4").indices(SECONDS[:2]) == [0, 0, 1, 1]
    assert FrameSampler.parse("segments:4").indices(SECONDS[:1]) == [0, 0, 0, 0]
    assert FrameSampler.parse("fps:2").indices(SECONDS[:1]) == [0]


def test_a_variable_rate_is_sampled_evenly_in_time():
    times = np.array([0, 0.1, 0.2, 0.3, 0.4, 2.0, 3.0])
    assert FrameSampler.parse("fps:1").indices(times) == [0, 4, 5, 6]
    assert FrameSampler.parse("fps:2").indices(times) == [0, 4, 4, 4, 5, 5, 6]
    assert FrameSampler.parse("seconds:1").indices(times) == [0, 4, 5, 6]
    assert FrameSampler.parse("seconds:1").indices(np.array([0, 0.4, 0.9, 1.2])) == [0, 2]


@given(SPECS, TIMES)
def test_indices_rise_within_the_clip_and_are_as_many_as_announced(spec, times):
    sampler = FrameSampler.parse(spec)
    indices = sampler.indices(times)
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < len(times)
    assert len(indices) == sampler.count(times)
    assert sampler.limit is None or len(indices) <= sampler.limit


@given(SPECS, TIMES)
def test_the_canonical_spec_reads_back(spec, times):
    sampler = FrameSampler.parse(spec)
    again = FrameSampler.parse(str(sampler))
    assert again == sampler
    assert again.indices(times) == sampler.indices(times)
    assert FrameSampler.parse(sampler) is sampler


@pytest.mark.parametrize(
    "spec", ["", "uniform", "uniform:", "uniform:x", "linspace:8", "uniform:8,max=4", "all:3", "fps:2;max=3", 8, None]
)
def test_an_unknown_spec_lists_the_forms(spec):
    with pytest.raises(ValueError, match=r"Unknown frame sampler .*; write one of: uniform:8, .*fps:2\[,max=64\]"):
        FrameSampler.parse(spec)


@pytest.mark.parametrize("spec", ["uniform:0", "fps:0", "fps:0.0", "stride:0", "all,max=0"])
def test_numbers_are_above_0(spec):
    with pytest.raises(ValueError, match="must be above 0"):
        FrameSampler.parse(spec)


def test_an_endless_clip_is_counted_without_making_a_list():
    assert FrameSampler.parse("fps:30").count(np.array([0.0, 1e9])) == 30_000_000_001
    assert FrameSampler.parse("fps:30,max=3").indices(np.array([0.0, 1e9])) == [0, 0, 1]


def test_no_frames():
    with pytest.raises(ValueError, match="at least one frame"):
        FrameSampler.parse("all").indices(np.array([]))

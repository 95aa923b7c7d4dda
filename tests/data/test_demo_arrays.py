"""Demonstrations from stacks of frames in npz and HDF5 files."""

import h5py
import numpy as np
import pytest
import torch
from ramps import hwc, numbers, ramp

from vrm.data import DemoError, load_demos
from vrm.errors import UnknownNameError


def test_an_npz_stack_comes_with_its_labels(tmp_path):
    path, actions = tmp_path / "push.npz", np.arange(22.0).reshape(11, 2)
    np.savez(
        path, frames=hwc(ramp()), stages=np.arange(12) // 4, actions=actions, success=[0] * 11 + [1], text="push", fps=6
    )
    (demo,) = load_demos([path])
    assert (demo.name, demo.text, demo.success, demo.fps) == ("push", "push", True, 6)
    assert torch.equal(demo.frames, ramp())
    assert demo.stages.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(demo.actions, actions)


def test_sampling_takes_the_stages_along_and_drops_actions(tmp_path):
    path = tmp_path / "push.npz"
    np.savez(path, frames=hwc(ramp()), stages=np.arange(12), actions=np.zeros((11, 2)), fps=6)
    (demo,) = load_demos([path], fps=2)
    assert numbers(demo) == demo.stages.tolist() == [0, 3, 6, 9]
    assert demo.actions is None


def test_an_action_for_the_last_frame_is_dropped(tmp_path):
    np.savez(tmp_path / "push.npz", frames=hwc(ramp(4)), actions=np.arange(4))
    assert load_demos([tmp_path / "push.npz"])[0].actions.tolist() == [[0], [1], [2]]


def test_an_npz_of_several_demos_gives_each_its_own_labels(tmp_path):
    frames = np.stack([hwc(ramp(3)), hwc(ramp(3, start=5))])
    np.savez(tmp_path / "all.npz", frames=frames, success=[True, False], text=["push", "pull"], fps=6)
    first, second = load_demos([tmp_path / "all.npz"])
    assert (first.name, first.text, first.success) == ("all/0", "push", True)
    assert (second.name, second.text, second.success, second.fps) == ("all/1", "pull", False, 6)
    assert numbers(second) == [5, 6, 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": np.zeros((3, 8, 8, 3), np.float32)}, "scale floats"),
        ({"frames": np.zeros((3, 3, 8, 8), np.uint8)}, "channels must come last"),
        ({"frames": np.zeros((3, 8, 8), np.uint8)}, r"must be \(T, H, W, 3\)"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "not empty"),
        ({"pictures": np.zeros((3, 8, 8, 3), np.uint8)}, r"needs an array named 'frames'.*'pictures'"),
        ({"frames": np.zeros((3, 8, 8, 3), np.uint8), "stages": np.zeros(2, int)}, "stages must be 3 integers"),
        ({"frames": np.zeros((3, 8, 8, 3), np.uint8), "actions": np.zeros((5, 1))}, "numbers in 2 rows"),
        ({"frames": np.zeros((3, 8, 8, 3), np.uint8), "success": np.zeros(2)}, "success must be one value"),
        ({"frames": np.zeros((3, 8, 8, 3), np.uint8), "fps": -1}, "fps must be one positive number"),
        ({"frames": np.zeros((2, 3, 8, 8, 3), np.uint8), "text": ["one"]}, "one row for each of the 2"),
        ({"frames": np.array([None, {}])}, "allow_pickle"),
    ],
)
def test_a_malformed_npz_is_one_sentence(tmp_path, fields, message):
    np.savez(tmp_path / "bad.npz", **fields)
    with pytest.raises(DemoError, match=message) as caught:
        load_demos([tmp_path / "bad.npz"])
    assert "bad" in str(caught.value)


def test_a_damaged_npz_is_named(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DemoError, match=r"bad\.npz cannot be read as \.npz"):
        load_demos([tmp_path / "bad.npz"])


def test_an_hdf5_stack_at_the_root_is_read_like_an_npz(tmp_path):
    with h5py.File(tmp_path / "push.h5", "w") as file:
        file["frames"], file["text"], file["fps"], file["success"] = hwc(ramp()), "push", 6, True
    (demo,) = load_demos([tmp_path / "push.h5"], fps=2)
    assert (demo.name, demo.text, demo.success) == ("push", "push", True)
    assert numbers(demo) == [0, 3, 6, 9]


def test_each_group_of_an_hdf5_file_is_a_demo(tmp_path):
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        for number in (10, 9):
            group = file.create_group(f"take_{number}")
            group["frames"], group["stages"] = hwc(ramp(3, start=number)), [0, 1, 1]
    demos = load_demos([tmp_path / "all.hdf5"])
    assert [(demo.name, numbers(demo)) for demo in demos] == [
        ("all/take_9", [9, 10, 11]), ("all/take_10", [10, 11, 12]),
    ]  # fmt: skip
    assert demos[0].stages.tolist() == [0, 1, 1]


@pytest.fixture
def robomimic(tmp_path):
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        for number in range(2):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = np.full((4, 7), number, np.float32)
            group["obs/object"] = np.zeros((4, 10))
            group["obs/agentview_image"] = hwc(ramp(4))
            group["obs/robot0_eye_in_hand_image"] = hwc(ramp(4, start=7))
    return tmp_path / "lift.hdf5"


def test_robomimic_demos_take_the_first_camera_and_say_so(robomimic):
    first, second = load_demos([robomimic])
    assert first.name == "lift/demo_0 (agentview_image)"
    assert numbers(first) == [0, 1, 2, 3]
    assert second.actions.tolist() == [[1] * 7] * 3


def test_another_camera_can_be_asked_for(robomimic):
    assert numbers(load_demos([robomimic], camera="robot0_eye_in_hand_image")[0]) == [7, 8, 9, 10]
    with pytest.raises(UnknownNameError, match="Did you mean 'agentview_image'"):
        load_demos([robomimic], camera="agentview")


def test_an_hdf5_file_without_frames_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["states"] = np.zeros((3, 2))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data/demo_0/obs/object"] = np.zeros((3, 2))
    (tmp_path / "c.h5").write_bytes(b"no hdf5")
    for name, message in (("a", "neither a dataset"), ("b", "demo_0' has no images"), ("c", "cannot be read as HDF5")):
        with pytest.raises(DemoError, match=rf"{name}\.h5.*{message}"):
            load_demos([tmp_path / f"{name}.h5"])

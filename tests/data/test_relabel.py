"""Copies of datasets in which a reward pays: every format, resumed after a kill, and what cannot be judged."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_demo_datasets import LEVEL, lerobot_v2, lerobot_v3, minari_root, write_minari  # noqa: F401  # fixtures
from tiny import GOAL, TinyEncoder

from vrm.agents.record import record
from vrm.data import DemoError
from vrm.data.relabel import describe, relabel
from vrm.data.relabel_command import relabel_command
from vrm.data.trajectories import open_trajectories
from vrm.envs import make_task
from vrm.errors import VrmError
from vrm.frames import from_hwc
from vrm.rewards import GoalReward, StateValue

STEPS = 12


@pytest.fixture(scope="module")
def reward():
    return GoalReward(TinyEncoder(), GOAL)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "recording"
    task = make_task("inverted_pendulum", episode_steps=STEPS)
    swing = [lambda obs: np.sin(5 * obs[:, :1]).astype(np.float32)]
    record(task, swing[0], folder, episodes=3, size=32, only_success=False, states=True)
    return folder


def paid(dataset):
    found = open_trajectories(dataset)
    return [found.read(index).rewards for index in range(len(found))]


def expected(reward, dataset):
    found = open_trajectories(dataset)
    return [reward(found.frames(index)[None])[0, 1:].numpy() for index in range(len(found))]


def check(reward, dataset, out):
    """The copy's rewards are those of its own frames; the dataset is as it was."""
    before = paid(dataset)
    relabel(dataset, reward, out, progress=False)
    for mine, theirs in zip(paid(out), expected(reward, dataset), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    for now, then in zip(paid(dataset), before, strict=True):
        assert (now is None and then is None) or np.array_equal(now, then)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]


def test_a_recording(reward, recording, tmp_path):
    check(reward, recording, tmp_path / "copy")
    with np.load(tmp_path / "copy" / "episode_00000.npz") as copy, np.load(recording / "episode_00000.npz") as old:
        assert np.array_equal(copy["env_rewards"], old["rewards"])
        assert np.array_equal(copy["observations"], old["observations"])
    stamp = json.loads((tmp_path / "copy" / "relabel.json").read_text())
    assert stamp["fingerprint"] == describe(reward)["fingerprint"]
    assert stamp["encoders"] == {"tiny": reward.encoder.fingerprint}
    found = open_trajectories(tmp_path / "copy").transitions()
    assert found.observations.shape == (3 * STEPS, 4)
    assert torch.equal(found.observations[1:STEPS], found.next_observations[: STEPS - 1])
    assert not found.terminated.any()


def test_first_rewards_survive_a_second_relabelling(reward, recording, tmp_path):
    relabel(recording, reward, tmp_path / "one", progress=False)
    relabel(tmp_path / "one", StateValue("success"), tmp_path / "two", progress=False)
    with np.load(tmp_path / "two" / "episode_00000.npz") as copy, np.load(recording / "episode_00000.npz") as old:
        assert np.array_equal(copy["env_rewards"], old["rewards"])
        assert np.array_equal(copy["rewards"], old["rewards"])  # this task's own reward is its success


def arrays(episodes):
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 255, (episodes, 6, 16, 16, 3), np.uint8),
        "actions": rng.normal(size=(episodes, 5, 2)).astype(np.float32),
        "observations": rng.normal(size=(episodes, 6, 3)).astype(np.float32),
        "rewards": rng.normal(size=(episodes, 5)).astype(np.float32),
        "terminated": np.arange(episodes) == 0,
    }


@pytest.mark.parametrize("many", [False, True])
def test_an_npz_file(reward, tmp_path, many):
    values = arrays(2) if many else {name: array[0] for name, array in arrays(2).items()}
    np.savez(tmp_path / "data.npz", **values)
    check(reward, tmp_path / "data.npz", tmp_path / "copy.npz")
    with np.load(tmp_path / "copy.npz") as copy:
        assert np.array_equal(copy["env_rewards"], values["rewards"])
        assert json.loads(str(copy["relabel"]))["fingerprint"]
    assert open_trajectories(tmp_path / "copy.npz").transitions().terminated.sum() == 1


@pytest.mark.parametrize("layout", ["groups", "robomimic"])
def test_an_hdf5_file(reward, tmp_path, layout):
    h5py = pytest.importorskip("h5py")
    values = arrays(2)
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for i in range(2):
            group = file.create_group(f"data/demo_{i}")
            group["actions"], group["rewards"] = values["actions"][i], values["rewards"][i]
            if layout == "groups":
                group["frames"], group["observations"] = values["frames"][i], values["observations"][i]
            else:
                group["obs/agentview_image"], group["obs/joints"] = (
                    values["frames"][i, :5],
                    values["observations"][i, :5],
                )
                group["dones"] = [0, 0, 0, 0, 1]
                group["next_obs/agentview_image"] = values["frames"][i, 1:]
                group["next_obs/joints"] = values["observations"][i, 1:]
    check(reward, tmp_path / "data.hdf5", tmp_path / "copy.hdf5")
    with h5py.File(tmp_path / "copy.hdf5") as file:
        assert np.array_equal(file["data/demo_1/env_rewards"][()], values["rewards"][1])
        assert json.loads(file.attrs["relabel"])["fingerprint"]
    found = open_trajectories(tmp_path / "copy.hdf5").transitions()
    assert np.array_equal(found.next_observations[5:].numpy(), values["observations"][1, 1:])


def test_a_minari_dataset_opens_in_minari_again(reward, minari_root):  # noqa: F811
    import gymnasium as gym
    import minari

    image = gym.spaces.Dict({"pixels": gym.spaces.Box(0, 255, (40, 48, 3), np.uint8), "level": LEVEL})
    write_minari("lamp-v0", lambda images: {"pixels": images, "level": np.arange(6, dtype=np.float32)[:, None]}, image)
    check(reward, "lamp-v0", minari_root / "bright-v0")
    episodes = list(minari.MinariDataset(minari_root / "bright-v0" / "data"))
    assert episodes[1].rewards.tolist() == paid(minari_root / "bright-v0")[1].tolist()
    found = open_trajectories(minari_root / "bright-v0").transitions()
    assert found.observations.flatten().tolist() == [0, 1, 2, 3, 4] * 2


def test_a_minari_dataset_without_frames_is_rendered_from_states(reward, recording, minari_root):  # noqa: F811
    h5py = pytest.importorskip("h5py")
    write_minari("lamp-v0", lambda images: np.zeros((6, 1), np.float32), LEVEL)
    with pytest.raises(DemoError, match=r"neither frames nor the simulator's qpos.*AddRenderObservation"):
        relabel("lamp-v0", reward, minari_root / "copy", progress=False)
    with (
        np.load(recording / "episode_00000.npz") as old,
        h5py.File(minari_root / "lamp-v0/data/main_data.hdf5", "r+") as f,
    ):
        for i in range(2):
            f[f"episode_{i}/infos/qpos"], f[f"episode_{i}/infos/qvel"] = old["qpos"][i : i + 6], old["qvel"][i : i + 6]
    with pytest.raises(DemoError, match="name the task that renders them"):
        relabel("lamp-v0", reward, minari_root / "copy", progress=False)
    with pytest.raises(DemoError, match=r"but swimmer_u_shape has"):
        relabel("lamp-v0", reward, minari_root / "copy", task=make_task("swimmer_u_shape"), progress=False)
    task = make_task("inverted_pendulum", episode_steps=STEPS)
    relabel("lamp-v0", reward, minari_root / "copy", task=task, size=32, progress=False)
    env = task.make(size=32)
    env.reset()
    with np.load(recording / "episode_00000.npz") as old:
        env.unwrapped.set_state(old["qpos"][3], old["qvel"][3])
    assert paid(minari_root / "copy")[0][2] == pytest.approx(
        reward(from_hwc(env.render()[None])[None]).item(), abs=1e-5
    )
    env.close()


@pytest.mark.parametrize("version", ["lerobot_v2", "lerobot_v3"])
def test_a_lerobot_dataset(reward, version, request, tmp_path):
    root = request.getfixturevalue(version)
    relabel(root, StateValue("success"), tmp_path / "first", progress=False)  # these sets have no reward of their own
    assert [values[-1] for values in paid(tmp_path / "first")] == [1, 0, 0][: len(paid(root))]
    check(reward, tmp_path / "first", tmp_path / "copy")
    info = json.loads((tmp_path / "copy/meta/info.json").read_text())
    assert {"next.reward", "next.env_rewards"} <= info["features"].keys()
    table = pq.read_table(min((tmp_path / "copy" / "data").rglob("*.parquet")), partitioning=None)
    assert table.column("next.env_rewards").to_pylist().count(1.0) == 1
    assert json.loads((tmp_path / "copy/meta/relabel.json").read_text())["fingerprint"]


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny import GOAL, TinyEncoder
from vrm.data import relabel as module
from vrm.rewards import GoalReward
score = module._score
def slow(*arguments):
    time.sleep(0.2)
    return score(*arguments)
module._score = slow
module.relabel({data!r}, GoalReward(TinyEncoder(), GOAL), {out!r}, progress=False)
"""


def test_a_killed_relabelling_goes_on(reward, tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", **arrays(30))
    out = tmp_path / "copy.npz"
    code = SLOW.format(tests=os.path.dirname(os.path.dirname(__file__)), data=str(tmp_path / "data.npz"), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code])
    journal = tmp_path / ".copy.npz.relabel"
    deadline = time.monotonic() + 60
    while len(list(journal.glob("0*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(journal.glob("0*.safetensors")))
    assert 3 <= done < 30
    assert not out.exists()
    from vrm.data import relabel as module

    scored, score = [], module._score
    monkeypatch.setattr(
        module, "_score", lambda source, index, *rest: scored.append(index) or score(source, index, *rest)
    )
    relabel(tmp_path / "data.npz", reward, out, progress=False)
    assert scored == list(range(done, 30))
    np.testing.assert_allclose(np.stack(paid(out)), np.stack(expected(reward, tmp_path / "data.npz")), atol=1e-5)


def test_labels_of_another_reward_are_not_gone_on_with(reward, tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", **arrays(2))
    monkeypatch.setattr(type(open_trajectories(tmp_path / "data.npz")), "write_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relabel(tmp_path / "data.npz", GoalReward(TinyEncoder(seed=1), GOAL), tmp_path / "copy.npz", progress=False)
    monkeypatch.undo()
    check(reward, tmp_path / "data.npz", tmp_path / "copy.npz")


def test_what_cannot_be_relabelled_is_told(reward, recording, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(DemoError, match="exists already"):
        relabel(recording, reward, tmp_path / "there", progress=False)
    with pytest.raises(DemoError, match="is no dataset"):
        relabel(tmp_path / "there", reward, tmp_path / "copy", progress=False)
    with pytest.raises(VrmError, match=r"reads state 'height' of every frame, but .* has only \['env_reward'"):
        relabel(recording, StateValue("height"), tmp_path / "copy", progress=False)
    np.savez(tmp_path / "short.npz", frames=np.zeros((5, 16, 16, 3), np.uint8), actions=np.zeros((5, 1)))
    with pytest.raises(DemoError, match="5 frames and 5 actions; T actions need T \\+ 1 frames"):
        relabel(tmp_path / "short.npz", reward, tmp_path / "copy.npz", progress=False)
    np.savez(tmp_path / "bare.npz", frames=np.zeros((5, 16, 16, 3), np.uint8), actions=np.zeros((4, 1)))
    with pytest.raises(DemoError, match=r"has no observations and no rewards.*vrm record RUN --states"):
        open_trajectories(tmp_path / "bare.npz").transitions()


def test_the_command(recording, tmp_path, capsys):
    assert (
        relabel_command(
            [str(recording), "--reward", "goal", "--task", "inverted_pendulum", "--out", str(tmp_path / "c")]
        )
        == 0
    )
    assert "3 episodes relabelled by goal" in capsys.readouterr().out
    stamp = json.loads((tmp_path / "c" / "relabel.json").read_text())
    assert stamp["reward"]["config"]["goal"] == list(make_task("inverted_pendulum").goal)

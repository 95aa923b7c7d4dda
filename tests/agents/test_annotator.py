"""The annotator labels the newest frames, never keeps the agent waiting, and survives what happens to processes."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from slow_teachers import Brightness, Broken
from stable_baselines3 import SAC

from vrm.agents import train
from vrm.agents.annotator import Annotator, Asked, Desk
from vrm.agents.distillation import DistillationCallback
from vrm.agents.label_store import Labels, LabelStore
from vrm.encoders import load_encoder
from vrm.envs import make_task
from vrm.errors import CheckpointError, VrmError
from vrm.rewards import GoalReward, load_reward
from vrm.rewards.distilled import Annotation, DistilledReward

DEADLINE = 60.0  # seconds for a process to start


def shades(*values):
    return [np.full((8, 8, 3), value, dtype=np.uint8) for value in values]


def see(frames):
    return frames[:, 0, 0, 0, None].float()


def annotator(make, folder, **settings):
    return Annotator(make, folder, see, Annotation(**{"fraction": 1.0, **settings}))


def test_what_waits_is_bounded_and_taken_newest_first():
    desk = Desk(Brightness, Annotation(queue=5, batch=2))
    desk.put([Asked(i, frame, 0.0) for i, frame in enumerate(shades(*range(8)))])
    assert desk.dropped == 3
    assert [[asked.id for asked in desk.take()] for _ in range(4)] == [[7, 6], [5, 4], [3], []]


def test_labels_come_with_their_frames_though_the_teacher_is_killed_once(tmp_path):
    slow = annotator(partial(Brightness, 0.3), tmp_path, batch=2)
    try:
        assert slow.offer(shades(0, 51)) == 2
        assert slow.wait(DEADLINE)
        os.kill(slow.pid, signal.SIGKILL)
        slow.offer(shades(102, 153, 255))
        assert slow.wait(DEADLINE)
        slow.collect()
        labels = slow.store.labels()
        assert labels.ids.tolist() == [0, 1, 2, 3, 4]
        torch.testing.assert_close(labels.values, labels.inputs[:, 0] / 255)
        told = slow.statistics()
        assert (told["labelled"], told["dropped"], told["waiting"], told["restarts"]) == (5, 0, 0, 1)
        assert told["latency"] > 0.3
        os.kill(slow.pid, signal.SIGKILL)
        slow.offer(shades(4))
        with pytest.raises(VrmError, match=r"exit code -9.*started again once"):
            slow.wait(DEADLINE)
        with pytest.raises(VrmError, match="started again once"):
            slow.offer(shades(5))
    finally:
        slow.close()


def test_one_can_wait_until_the_teacher_is_loaded_and_hears_if_it_cannot_be(tmp_path):
    quick, none = annotator(Brightness, tmp_path / "a"), annotator(partial(load_reward, "nothing"), tmp_path / "b")
    try:
        assert not quick.wait_ready(0.0)
        assert quick.wait_ready(DEADLINE)
        assert annotator(Brightness, tmp_path / "c", synchronous=True).wait_ready(0.0)
        with pytest.raises(VrmError, match=r"cannot label frames.*nothing"):
            none.wait_ready(DEADLINE)
    finally:
        quick.close()
        none.close()


def test_a_teacher_that_fails_is_reported_in_its_own_words(tmp_path):
    broken = annotator(Broken, tmp_path)
    try:
        broken.offer(shades(1))
        with pytest.raises(VrmError, match="ArithmeticError: nothing fits"):
            broken.wait(DEADLINE)
    finally:
        broken.close()


def test_the_agent_never_waits_and_closing_ends_thread_and_process(tmp_path):
    slow = annotator(partial(Brightness, 30.0), tmp_path, queue=10)
    began = time.monotonic()
    for value in range(50):
        slow.offer(shades(value))
    slow.collect()
    assert time.monotonic() - began < 1.0
    assert slow.statistics()["dropped"] >= 30
    process = slow._desk.process._process
    slow.close()
    slow.close()
    assert not process.is_alive()
    with pytest.raises(VrmError, match="closed"):
        slow.offer(shades(1))
    assert not [t for t in threading.enumerate() if t.name == "vrm-annotator" and t.join(2.0) is None and t.is_alive()]


def test_a_forgotten_annotator_takes_its_process_along(tmp_path):
    forgotten = annotator(Brightness, tmp_path)
    process = forgotten._desk.process._process
    del forgotten
    assert not process.is_alive()


def test_synchronous_labels_repeat_exactly(tmp_path):
    found = []
    for name in ("first", "second"):
        here = annotator(Brightness, tmp_path / name, fraction=0.3, synchronous=True)
        for value in range(100):
            here.offer(shades(value))
        here.close()
        found.append(here.store.labels())
        assert here.pid is None
    assert torch.equal(found[0].inputs, found[1].inputs)
    assert torch.equal(found[0].values, found[1].values)
    assert 15 < len(found[0]) < 45


def test_a_resumed_run_has_its_labels_and_goes_on_counting(tmp_path):
    first = annotator(Brightness, tmp_path, synchronous=True)
    first.offer(shades(1, 2))
    first.close()
    second = annotator(Brightness, tmp_path, synchronous=True)
    assert second.store.labels().inputs[:, 0].tolist() == [1, 2]
    second.offer(shades(3))
    second.collect()
    assert second.store.labels().ids.tolist() == [0, 1, 2]
    second.close()


def test_old_labels_leave_memory_and_disk(tmp_path):
    store = LabelStore(tmp_path, capacity=4)
    for start in range(0, 12, 2):
        ids = torch.tensor([start, start + 1])
        store.add(Labels(ids, ids[:, None].float(), ids.float()))
    assert store.labels().ids.tolist() == [8, 9, 10, 11]
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(CheckpointError, match="another folder"):
        store.add(Labels(ids, torch.zeros(2, 7), ids.float()))
    (tmp_path / "labels-00000099.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        LabelStore(tmp_path)


@pytest.fixture(scope="module")
def task():
    return make_task("inverted_pendulum", episode_steps=20)


make = partial(SAC, "MlpPolicy", learning_starts=40, train_freq=4, gradient_steps=1, batch_size=16, buffer_size=400)
ANNOTATE = {"fraction": 0.5, "every": 80, "first": 16, "synchronous": True}


def student(task, **annotate):
    teacher = GoalReward(load_encoder("vrm-sim"), task.goal)
    return DistilledReward(None, teacher, steps=5, batch=32, annotate={**ANNOTATE, **annotate})


def learn(task, reward, folder, steps=160, seed=0):
    from vrm.agents.rollouts import make_envs
    from vrm.agents.train import build
    from vrm.wrappers import attach_reward

    venv = make_envs(task, 4, 64)
    venv.seed(seed)
    algo = build(make, venv, seed=seed)
    try:
        algo.learn(steps, callback=[DistillationCallback(reward, folder), attach_reward(algo, reward)])
    finally:
        venv.close()
    return algo


def test_training_fits_the_student_and_repeats_when_synchronous(task, tmp_path):
    rewards = []
    for name in ("first", "second"):
        reward = student(task)
        algo = learn(task, reward, tmp_path / name)
        assert int(reward.fits) == 2
        rewards.append(algo.replay_buffer.rewards[:40].copy())
    np.testing.assert_array_equal(*rewards)
    assert rewards[0][:15].any() is np.False_  # nothing is known yet
    assert rewards[0][25:].all()


def test_a_student_from_a_file_goes_on_with_the_teacher_in_the_folder(task, tmp_path):
    reward = student(task)
    learn(task, reward, tmp_path / "labels")
    before = len(LabelStore(tmp_path / "labels"))
    reward.save(tmp_path / "student.safetensors")
    again = load_reward(tmp_path / "student.safetensors")
    learn(task, again, tmp_path / "labels")
    assert len(LabelStore(tmp_path / "labels")) > before
    assert int(again.fits) == 4
    with pytest.raises(CheckpointError, match="no teacher"):
        DistillationCallback(again, tmp_path / "elsewhere")


def test_labels_of_another_teacher_are_deleted(task, tmp_path):
    learn(task, student(task), tmp_path)
    other = GoalReward(load_encoder("vrm-sim"), "something else")
    DistillationCallback(DistilledReward(None, other), tmp_path)
    assert LabelStore(tmp_path).labels() is None


def test_a_run_folder_keeps_labels_and_teacher(task, tmp_path):
    every = {"n_envs": 4, "eval_every": 1000, "checkpoint_every": 80, "video_every": 1000, "eval_episodes": 1}
    train(task, student(task), make, tmp_path, total_steps=120, **every)
    assert (tmp_path / "annotations" / "teacher.safetensors").is_file()
    assert isinstance(load_reward(tmp_path / "reward.safetensors"), DistilledReward)
    train(task, load_reward(tmp_path / "reward.safetensors"), make, tmp_path, total_steps=160, resume=True, **every)

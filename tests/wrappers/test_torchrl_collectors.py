"""TorchRL's own collectors pay what the Gymnasium wrapper pays on the same trajectory, to the bit."""

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

from tensordict.nn import TensorDictModule
from tiny import BASELINE, GOAL, RisingReward
from torchrl.envs import Compose, GymWrapper, ParallelEnv, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.record import PixelRenderTransform

from vrm.encoders import load_encoder
from vrm.envs import make_task
from vrm.errors import FrameError
from vrm.frames import from_hwc
from vrm.rewards import GoalReward, StateValue, Sum
from vrm.wrappers import FrameCapture, RewardTransform, RewardWrapper
from vrm.wrappers.torchrl_env import capture_env
from vrm.wrappers.torchrl_rollout import RolloutReward

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchRL's own classes, on import
    from torchrl.collectors import Collector, MultiSyncCollector

STEPS, LIMIT = 24, 9


class Swinging(torch.nn.Module):
    """Pushes by the sign of the pole's angular velocity; no randomness."""

    def forward(self, observation):
        return (observation[..., 3] < 0).long()


def policy():
    return TensorDictModule(Swinging(), in_keys=["observation"], out_keys=["action"])


def task():
    return make_task("cartpole", episode_steps=LIMIT)


def capture():
    return capture_env(task().make(size=32), ["success"])


def with_reward(source):
    return TransformedEnv(capture(), RewardTransform(source, pixels="frame"))


def goal_reward():
    return GoalReward(load_encoder("vrm-sim"), GOAL, BASELINE)


@pytest.fixture(scope="module", params=["one frame", "three frames"])
def model(request):
    if request.param == "one frame":
        return Sum({"goal": goal_reward(), "done": StateValue("success"), "env": StateValue("env_reward")})
    return RisingReward(goal_reward())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "goal.safetensors"
    goal_reward().save(path)
    return path


def replay(model, data):
    """Rewards of :class:`RewardWrapper` for the actions of one environment, from its first observations on."""
    env = RewardWrapper(FrameCapture(task().make(size=32)), model)
    paid, new = [], True
    for t in range(len(data)):
        if new:
            env.reset(seed=0)
            env.unwrapped.state = data["observation"][t].double().numpy()
            frame = from_hwc(env.unwrapped.render()[None])
            env.stream.begin(frame, [{"success": float(env.unwrapped.success()), "env_reward": 0.0, "terminated": 0.0}])
        paid.append(env.step(int(data["action"][t]))[1])
        new = bool(data["next", "done"][t])
    env.close()
    return np.array(paid, np.float32)


def collect(env, steps=STEPS, cut=STEPS):
    collector = Collector(
        env, policy(), frames_per_batch=cut, total_frames=steps, auto_register_policy_transforms=False
    )
    batches = [data.clone() for data in collector]
    collector.shutdown()
    return batches


def test_a_single_environment_in_a_collector(model):
    (data,) = collect(partial(with_reward, model))
    assert int(data["next", "done"].sum()) == STEPS // LIMIT
    assert "frame" not in data.keys()  # noqa: SIM118 (a TensorDict is no mapping)
    assert data["next", "reward"].flatten().numpy().tolist() == replay(model, data).tolist()
    assert set(data["next", "env_reward"].flatten().tolist()) <= {0.0, 1.0}


# forked, because spawned processes import everything anew; the collector below spawns
@pytest.mark.parametrize(
    "vector", [SerialEnv, partial(ParallelEnv, mp_start_method="fork")], ids=["serial", "parallel"]
)
def test_the_model_travels_to_environments_as_a_file(vector, file):
    env = vector(2, partial(with_reward, str(file)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (data,) = collect(env, 2 * STEPS, 2 * STEPS)
    assert data.shape == (2, STEPS)
    for i in range(2):
        assert data[i]["next", "reward"].flatten().numpy().tolist() == replay(goal_reward(), data[i]).tolist()


def test_worker_processes_of_a_collector_build_their_own_model(file):
    make = partial(with_reward, partial(load_from, str(file)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = MultiSyncCollector(
            [make, make], policy(), frames_per_batch=2 * STEPS, total_frames=2 * STEPS, cat_results="stack"
        )
        data = next(iter(collector)).clone()
        collector.shutdown()
    assert data.shape == (2, STEPS)
    for i in range(2):
        assert data[i]["next", "reward"].flatten().numpy().tolist() == replay(goal_reward(), data[i]).tolist()


def load_from(path):
    from vrm.rewards import load_reward

    return load_reward(path)


@pytest.mark.parametrize("cut", [2 * STEPS, 12])
def test_whole_rollouts_are_paid_as_single_steps_are(model, cut):
    pay = RolloutReward(model)
    batches = [pay(data) for data in collect(SerialEnv(2, capture), 2 * STEPS, cut)]
    data = torch.cat(batches, dim=1)
    assert "frame" not in data["next"].keys()  # noqa: SIM118 (a TensorDict is no mapping)
    for i in range(2):
        np.testing.assert_allclose(
            data[i]["next", "reward"].flatten().numpy(), replay(model, data[i]), rtol=0, atol=1e-5
        )


def test_a_batch_of_batches_is_scored_in_one_call(encoder):
    model = GoalReward(encoder, GOAL, BASELINE)
    plain = SerialEnv(2, partial(SerialEnv, 3, capture))
    env = TransformedEnv(plain, RewardTransform(model, pixels="frame", keep_frame=True))
    encoder.calls.clear()
    data = env.rollout(STEPS, break_when_any_done=False)
    assert data.shape == (2, 3, STEPS)
    assert encoder.calls == [6] * STEPS
    frames = data["next", "frame"].movedim(-1, -3).flatten(0, 1)
    assert torch.equal(data["next", "reward"].flatten(0, 1)[:, 0, 0], model(frames[:, :1])[:, 0])


def test_frames_may_come_from_render(encoder):
    model = RisingReward(GoalReward(encoder, GOAL, BASELINE))
    plain = GymWrapper(task().make(size=32), categorical_action_encoding=True)
    env = TransformedEnv(plain, Compose(PixelRenderTransform(), RewardTransform(model)))
    check_env_specs(env)
    (data,) = collect(env)
    assert sorted(k for k in data["next"].keys() if "pixels" in k) == []  # noqa: SIM118
    assert data["next", "reward"].flatten().numpy().tolist() == replay(model, data).tolist()


def test_histories_do_not_travel(encoder):
    env = TransformedEnv(SerialEnv(2, capture), RewardTransform(GoalReward(encoder, GOAL), pixels="frame"))
    env.rollout(3)
    assert env.transform.clone()._stream is None
    assert env.transform._stream is not None
    fresh = RewardTransform("somewhere.safetensors", pixels="frame")
    assert pickle.loads(pickle.dumps(fresh))._stream is None
    env.close()


def test_a_rollout_without_frames_says_how_to_get_them(encoder):
    env = SerialEnv(1, partial(GymWrapper, task().make(size=32)))
    with pytest.raises(FrameError, match=r"got nothing.*capture_env"):
        RolloutReward(GoalReward(encoder, GOAL))(env.rollout(3))

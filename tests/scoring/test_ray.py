"""The Ray engine gives the rows of the local one."""

import builtins
import sys

import pytest

import vrm
from vrm.encoders import load_encoder
from vrm.errors import MissingExtraError
from vrm.rewards import Flicker, GoalReward

PROMPTS = ["a humanoid robot kneeling", "a pole standing upright"]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_rows_of_the_local_engine(tmp_path, clips):
    ray = pytest.importorskip("ray")
    (tmp_path / "bad.mp4").write_text("no video" * 99)
    rewards = {"goal": GoalReward(load_encoder("vrm-sim"), "x"), "flicker": Flicker()}
    inputs = [*clips, tmp_path / "bad.mp4"]
    here = vrm.score(inputs, rewards, PROMPTS, matrix=True)
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        there = vrm.score(inputs, rewards, PROMPTS, matrix=True, engine="ray", out=tmp_path / "s")
    finally:
        ray.shutdown()
    assert there.equals(here)


def test_without_ray_one_sentence_says_what_to_install(clips, monkeypatch):
    real = builtins.__import__

    def without_ray(name, *args, **kwargs):
        if name == "ray" or name.startswith("ray."):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "vrm.scoring.ray_engine", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(MissingExtraError, match=r"pip install 'vrm\[ray\]'"):
        vrm.score(clips, Flicker(), engine="ray")

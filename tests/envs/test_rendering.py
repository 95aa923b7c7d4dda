"""Frames: their size, the two qualities, the camera, several contexts, threads, and a missing OpenGL library."""

import os
import subprocess
import sys
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from vrm.agents.threads import ThreadVecEnv
from vrm.envs import TASKS, make_task
from vrm.envs.humanoid_poses import POSES, show
from vrm.envs.rendering import FULL_SIZE, Camera
from vrm.wrappers import FrameCapture

MUJOCO = [
    "humanoid_kneeling", "inverted_pendulum", "reacher_reach", "fetch_reach", "fetch_push", "ant_rearing",
    "half_cheetah_on_back", "hopper_leg_up", "walker2d_kneeling", "swimmer_u_shape",
]  # fmt: skip
ONE_OF_EACH = pytest.mark.parametrize("name", ["cartpole", "mountain_car", *MUJOCO])
IN_3D = pytest.mark.parametrize("name", MUJOCO)


@pytest.fixture
def make():
    """Build environments that are closed when the test ends."""
    made = []

    def build(name="humanoid_standing", **options):
        env = TASKS[name].make(**options).unwrapped
        env.reset(seed=0)
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()


def shirt(frame):
    """Where the humanoid's blue shirt is."""
    red, _, blue = frame.astype(int).transpose(2, 0, 1)
    return (blue - red > 40) & (red < 75)


@ONE_OF_EACH
@pytest.mark.parametrize("size", [1, 17, 64, 224])
def test_frames_have_exactly_the_size_asked_for(name, size, make):
    frame = make(name, size=size).render()
    assert frame.shape == (size, size, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.writeable
    assert frame.std() > 5 or size == 1


@ONE_OF_EACH
def test_without_a_render_mode_there_is_no_frame(name, make):
    assert make(name, render_mode=None).render() is None


@ONE_OF_EACH
def test_frames_do_not_change_after_they_are_handed_out(name, make):
    env = make(name, size=32)
    first = env.render()
    kept = first.copy()
    for _ in range(5):
        env.step(env.action_space.sample())
        env.render()
    assert np.array_equal(first, kept)


def test_people_see_a_large_picture():
    env = TASKS["humanoid_kneeling"].make_for_viewing()
    env.reset(seed=0)
    assert env.render().shape == (FULL_SIZE, FULL_SIZE, 3)
    assert env.unwrapped.quality == "full"
    env.close()


@IN_3D
def test_fast_frames_look_like_full_ones(name, make):
    fast, full = (make(name, quality=quality).render().astype(int) for quality in ("fast", "full"))
    assert np.abs(fast - full).mean() < 10
    assert np.corrcoef(fast.ravel(), full.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("quality", "expected"), [("fast", False), ("full", True)])
def test_only_full_frames_have_shadows(quality, expected, make):
    env = make(size=96, quality=quality)
    lit = env.render().astype(int)
    env._scene._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    gain = (env.render().astype(int) - lit).mean(axis=2)
    assert bool((gain > 10).mean() > 0.01) is expected


def test_the_camera_follows_the_body_over_ground_but_not_in_height(make):
    env = make(size=96)
    show(env.model, env.data, POSES["standing"])
    here = shirt(env.render())
    env.data.qpos[:2] += (7.0, -4.0)
    mujoco.mj_forward(env.model, env.data)
    there = shirt(env.render())
    assert here.mean() > 0.02
    assert (here & there).sum() > 0.9 * (here | there).sum()
    env.data.qpos[2] += 0.4
    mujoco.mj_forward(env.model, env.data)
    higher = shirt(env.render())
    assert np.nonzero(higher)[0].mean() < np.nonzero(there)[0].mean() - 8
    env.camera = replace(env.camera, follow=None)
    assert shirt(env.render()).sum() < 0.1 * here.sum()


@IN_3D
def test_another_camera_counts_from_the_next_frame_on(name, make):
    env = make(name)
    usual, first = env.camera, env.render()
    env.camera = replace(usual, azimuth=usual.azimuth + 90)
    assert not np.array_equal(env.render(), first)
    env.camera = usual
    assert np.array_equal(env.render(), first)


def test_cameras_vary_a_little_and_never_look_from_below_the_ground():
    camera, rng = Camera(3.0, 90.0, -5.0, (0.0, 0.0, 0.5), "torso"), np.random.default_rng(0)
    near = [camera.jitter(rng) for _ in range(300)]
    assert max(c.elevation for c in near) <= -2
    assert 2 < min(c.distance for c in near) < max(c.distance for c in near) < 4.2
    assert {c.follow for c in near} == {"torso"}
    assert replace(camera.jitter(rng, scale=0.0), lookat=camera.lookat) == camera


def test_interleaved_environments_do_not_mix_up_their_pictures(make):
    def picture(env, pose):
        show(env.model, env.data, POSES[pose])
        return env.render()

    small, large, cart = make(size=32), make(size=80, quality="full"), make("inverted_pendulum", size=48)
    alone = [picture(make(size=32), "kneeling"), picture(make(size=80, quality="full"), "lotus")]
    alone.append(make("inverted_pendulum", size=48).render())
    for _ in range(3):
        together = [picture(small, "kneeling"), picture(large, "lotus"), cart.render()]
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_closing_twice_and_rendering_again(make):
    env = make(size=32)
    first = env.render()
    env.close()
    env.close()
    assert np.array_equal(env.render(), first)


def run(make_venv, name, steps=13):
    """Play three episodes and a bit on three environments; everything a learner could see."""
    task = make_task(name, episode_steps=4)
    venv = make_venv([lambda: FrameCapture(task.make(size=32))] * 3)
    venv.seed(11)
    venv.action_space.seed(2)
    seen = [venv.reset(), *(info["frame"] for info in venv.reset_infos)]
    ends = 0
    for _ in range(steps):
        observations, rewards, dones, infos = venv.step(np.stack([venv.action_space.sample() for _ in range(3)]))
        seen += [observations, rewards, dones, [sorted(info) for info in infos]]
        seen += [info[key] for info in infos for key in sorted(info)]
        seen += [info["frame"] for info in venv.reset_infos]
        ends += sum(dones)
        assert all(("terminal_observation" in info) == done for info, done in zip(infos, dones, strict=True))
    venv.close()
    assert ends == 3 * (steps // 4)
    return seen


@ONE_OF_EACH
def test_threads_show_what_one_thread_shows(name):
    one, two = run(DummyVecEnv, name), run(ThreadVecEnv, name)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


HIDE = """
import ctypes.util, os, sys
real = ctypes.util.find_library
def hide(name):
    return None if name in ("EGL", "OSMesa") else real(name)
"""
RENDER = """
import vrm.envs
from vrm.errors import RenderingError
env = vrm.envs.TASKS["humanoid_kneeling"].make(size=16)
env.reset(seed=0)
env.step(env.action_space.sample())
try:
    env.render()
except RenderingError as error:
    print("RenderingError:", error)
else:
    print("rendered with", os.environ["MUJOCO_GL"])
env.close()
"""
NO_LIBRARY = "No OpenGL library for headless rendering was found"


def fresh(code, **environment):
    """Run ``code`` in a new interpreter without this one's choice of backend; return what it prints."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring their own OpenGL")
class TestBackends:
    def test_the_first_that_loads_is_chosen(self):
        assert fresh("import os" + RENDER) == "rendered with egl\n"

    def test_a_missing_library_is_one_sentence_when_a_frame_is_wanted(self):
        told = fresh(HIDE + "ctypes.util.find_library = hide" + RENDER)
        assert told.startswith(f"RenderingError: {NO_LIBRARY}")
        assert "apt-get install" in told

    def test_the_users_choice_is_kept_and_its_missing_library_told_at_import(self):
        code = "import os, vrm.envs, mujoco\nprint(os.environ['MUJOCO_GL'], mujoco.GLContext.__module__)"
        assert fresh(code, MUJOCO_GL="glfw") == "glfw mujoco.glfw\n"
        code = "try:\n    import vrm.envs\nexcept Exception as error:\n    print(type(error).__name__, error)"
        hidden = HIDE + "import ctypes\nctypes.CDLL = lambda *a, **k: (_ for _ in ()).throw(OSError('hidden'))\n"
        told = fresh(hidden + "ctypes.util.find_library = hide\n" + code, MUJOCO_GL="osmesa")
        assert told.startswith(f"RenderingError {NO_LIBRARY}")

    def test_mujoco_imported_too_early_is_told(self):
        assert "import vrm.envs first" in fresh("import os, mujoco" + RENDER)

    def test_a_library_without_a_driver_is_one_sentence(self):
        told = fresh("import os" + RENDER, __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere")
        assert told.startswith("RenderingError: MuJoCo could not create an OpenGL context")
        assert "libgl1-mesa-dri" in told

"""The ray-caster: it shows what OpenGL shows, without OpenGL; batches; what a model must bring; a missing package."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
from scipy.stats import spearmanr

import vrm
from vrm.agents.threads import ThreadVecEnv
from vrm.configuration import build_task, compose
from vrm.envs import FAMILIES, make_task
from vrm.envs.humanoid_poses import POSES, show
from vrm.envs.rendering import Camera, SceneRenderer, prepare
from vrm.envs.warp_renderer import WarpRenderer
from vrm.errors import RenderingError, UnknownNameError
from vrm.frames import from_hwc
from vrm.rewards import GoalReward
from vrm.wrappers import FrameCapture

TASK = "humanoid_kneeling"
CAMERA = Camera(distance=3.0, azimuth=60, elevation=-30, lookat=(0.0, 0.0, 0.2))
BALL = """
<mujoco>
  <option solver="PGS"/>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <geom name="floor" type="plane" size="3 3 1" rgba=".5 .6 .5 1"/>
    <body name="box" pos="0 0 .5">
      <freejoint/>
      <geom type="box" size=".3 .2 .1" rgba=".9 .1 .1 1"/>
      <site name="spot" type="sphere" pos="0 0 .35" size=".2" rgba=".1 .1 .9 1"/>
      <site type="box" pos=".6 0 0" size=".1 .1 .1" rgba="0 1 0 1"/>
      <site name="hidden" type="sphere" pos="0 .5 0" size=".2" rgba="1 1 1 0"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def reward():
    return GoalReward(vrm.load_encoder("vrm-sim"), "a humanoid robot kneeling")


@pytest.fixture(scope="module")
def humanoids(reward):  # loaded first: torchvision imports triton, which crashes in a process that has OpenGL
    """The same humanoid under both renderers, by the renderer's name."""
    envs = {name: make_task(TASK, renderer=name).make(size=64).unwrapped for name in ("opengl", "warp")}
    for env in envs.values():
        env.reset(seed=0)
    yield envs
    for env in envs.values():
        env.close()


@pytest.fixture(scope="module")
def boxes(reward):
    """The same scene with two sites, compiled for both renderers."""

    def compile_for(renderer):
        spec = mujoco.MjSpec.from_string(BALL)
        prepare(spec, 48, "fast", CAMERA, renderer)
        model = spec.compile()
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        return SceneRenderer(model, 48, "fast", CAMERA), model, data

    made = {name: compile_for(name) for name in ("opengl", "warp")}
    yield made
    for scene, *_ in made.values():
        scene.close()


@pytest.fixture(scope="module")
def poses(humanoids):
    """Snapshots of sampled states, every look varied."""
    env = humanoids["warp"]
    seen, renderer = [], WarpRenderer(env.model, 64, "fast")
    rng = np.random.default_rng(0)
    usual = (
        env.camera,
        env.model.geom_rgba.copy(),
        env.model.light_diffuse.copy(),
        env.model.vis.headlight.diffuse.copy(),
    )
    for _, _state in zip(range(11), FAMILIES["humanoid"].sample(env, rng, True), strict=False):
        seen.append(renderer.snapshot(env.data, env.camera))
    env.camera, env.model.geom_rgba[:], env.model.light_diffuse[:], env.model.vis.headlight.diffuse[:] = usual
    return seen


def correlation(a, b):
    return np.corrcoef(a.astype(float).ravel(), b.astype(float).ravel())[0, 1]


def overlap(a, b):
    """Intersection over union of two masks."""
    return (a & b).sum() / (a | b).sum()


def shirt(frame):
    red, _, blue = frame.astype(int).transpose(2, 0, 1)
    return (blue - red > 40) & (red < 75)


@pytest.mark.parametrize("pose", ["kneeling", "standing", "lotus", "arms_raised"])
def test_both_renderers_show_the_same_humanoid(pose, humanoids):
    frames = {}
    for name, env in humanoids.items():
        show(env.model, env.data, POSES[pose])
        frames[name] = env.render()
    a, b = frames.values()
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert correlation(a, b) > 0.95
    assert overlap(shirt(a), shirt(b)) > 0.85
    assert np.abs(a[:12].astype(int) - b[:12]).mean() < 3  # the sky


def test_both_renderers_show_sites_and_a_matte_floor(boxes):
    a, b = (scene.render(data) for scene, _, data in boxes.values())
    assert correlation(a, b) > 0.95  # OpenGL lights a floor from its corners
    for colour in range(3):  # the box is red, one site green, another blue
        masks = [(f[..., colour] > f.sum(axis=2) * 0.6) & (f[..., colour] > 40) for f in (a.astype(int), b.astype(int))]
        assert masks[0].sum() > 15
        assert overlap(*masks) > 0.8
    floor = b[-10:].reshape(-1, 3)
    assert floor.std(axis=0).max() < 10


def test_moving_site_colour_and_camera_count_from_the_next_frame_on(boxes):
    scene, model, data = boxes["warp"]
    first = scene.render(data)
    model.site("spot").pos[2] += 0.1
    mujoco.mj_forward(model, data)
    assert not np.array_equal(scene.render(data), first)
    model.site("spot").pos[2] -= 0.1
    mujoco.mj_forward(model, data)
    model.site("spot").rgba[:3] = (1, 1, 0)
    assert not np.array_equal(scene.render(data), first)
    model.site("spot").rgba[:3] = (0.1, 0.1, 0.9)
    scene.camera = replace(CAMERA, azimuth=90)
    assert not np.array_equal(scene.render(data), first)
    scene.camera = CAMERA
    assert np.array_equal(scene.render(data), first)


def test_what_the_ray_caster_needs_changes_no_physics(boxes):
    (_, plain, a), (_, prepared, b) = boxes.values()
    for _ in range(200):
        mujoco.mj_step(plain, a)
        mujoco.mj_step(prepared, b)
    assert np.array_equal(a.qpos, b.qpos)
    mujoco.mj_resetData(plain, a)
    mujoco.mj_resetData(prepared, b)
    mujoco.mj_forward(plain, a)
    mujoco.mj_forward(prepared, b)


def test_a_batch_holds_what_single_frames_hold(poses, humanoids):
    model = humanoids["warp"].model
    one, five = WarpRenderer(model, 64, "fast"), WarpRenderer(model, 64, "fast", worlds=5)
    alone = np.concatenate([one.render_batch([snapshot]) for snapshot in poses])
    together = five.render_batch(poses)
    assert together.shape == (11, 64, 64, 3)
    assert np.array_equal(alone, together)
    assert np.array_equal(five.render_batch(poses[::-1]), together[::-1])
    assert five.render_batch([]).shape == (0, 64, 64, 3)
    assert len({frame.tobytes() for frame in together}) > 5


def test_snapshots_do_not_change_after_they_are_taken(humanoids):
    env = humanoids["warp"]
    renderer = WarpRenderer(env.model, 32, "fast")
    taken = renderer.snapshot(env.data, env.camera)
    kept = [getattr(taken, field.name).copy() for field in fields(taken)]
    show(env.model, env.data, POSES["lotus"])
    env.model.geom_rgba[:, 0] *= 0.5
    assert all(np.array_equal(a, getattr(taken, field.name)) for a, field in zip(kept, fields(taken), strict=True))
    env.model.geom_rgba[:, 0] *= 2


def test_the_bundled_encoder_ranks_states_alike_under_both_renderers(reward):
    scores = []
    for name in ("opengl", "warp"):
        frames = make_task(TASK, renderer=name).sample(120, seed=1).frames
        scores.append(reward(from_hwc(frames)[:, None]).flatten().numpy())
    assert spearmanr(*scores)[0] > 0.9


def test_threads_show_what_one_thread_shows(humanoids):
    task = make_task(TASK, renderer="warp")
    venv = ThreadVecEnv([lambda: FrameCapture(task.make(size=64))] * 2)
    venv.seed(4)
    venv.reset()
    actions = np.zeros((2, *venv.action_space.shape), dtype=np.float32)
    threaded = [[info["frame"] for info in venv.step(actions)[3]] for _ in range(20)]
    venv.close()
    for i in range(2):
        env = FrameCapture(task.make(size=64))
        env.reset(seed=4 + i)
        for frames in threaded:
            assert np.array_equal(env.step(actions[i])[4]["frame"], frames[i])
        env.close()


def test_copies_keep_their_renderer(humanoids):
    for env in (copy.deepcopy(humanoids["warp"]), pickle.loads(pickle.dumps(humanoids["warp"]))):
        env.reset(seed=0)
        env.render()
        assert isinstance(env._scene._renderer, WarpRenderer)
        env.close()


def test_the_choice_is_an_option_of_tasks_and_runs():
    config = compose("train", [f"task={TASK}", "task.renderer=warp"])
    assert config["task"]["renderer"] == "warp"
    assert build_task(config).options["renderer"] == "warp"
    assert compose("train", [f"task={TASK}"])["task"]["renderer"] == "opengl"


def test_unknown_renderers_models_and_devices_are_told_in_one_sentence(boxes, humanoids):
    with pytest.raises(UnknownNameError, match=r"Unknown renderer 'wrap'\. Did you mean 'warp'\?"):
        make_task(TASK, renderer="wrap").make()
    with pytest.raises(RenderingError, match="not prepared for the ray-caster"):
        WarpRenderer(humanoids["opengl"].model, 8, "fast")
    with pytest.raises(RenderingError, match="no device 'cuda:99' here for the ray-caster; known: cpu"):
        WarpRenderer(boxes["warp"][1], 8, "fast", device="cuda:99")
    with pytest.raises(ValueError, match="worlds must be at least 1, got 0"):
        WarpRenderer(boxes["warp"][1], 8, "fast", worlds=0)


def fresh(code, **environment):
    """Run ``code`` in a new interpreter; return what it prints."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


HIDE = """
import ctypes.util, sys
real = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if name in ("EGL", "OSMesa", "GL") else real(name)
"""
RENDER = """
from vrm.envs import make_task
env = make_task("humanoid_kneeling", renderer="warp").make(size=64)
env.reset(seed=0)
print(env.render().std() > 20, [m for m in sys.modules if m.startswith(("OpenGL.GL", "OpenGL.EGL", "OpenGL.osmesa"))])
env.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring their own OpenGL")
@pytest.mark.parametrize("environment", [{"MUJOCO_GL": "disable"}, {}], ids=["disabled", "missing"])
def test_no_opengl_is_needed(environment, humanoids):
    assert fresh(HIDE + RENDER, **environment) == "True []\n"


def test_a_missing_package_is_one_sentence_when_the_environment_is_made():
    code = """
import sys
sys.modules["mujoco_warp"] = None
from vrm.envs import TASKS, make_task
from vrm.errors import MissingExtraError
TASKS["humanoid_kneeling"].make()
try:
    make_task("humanoid_kneeling", renderer="warp").make()
except MissingExtraError as error:
    print(error)
"""
    told = "renderer=warp needs mujoco-warp, which is not installed: run `pip install 'vrm[warp]'`.\n"
    assert fresh(code) == told

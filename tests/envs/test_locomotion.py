"""Walking and swimming machines: dynamics stay Gymnasium's, pay and captions are what they say."""

import copy
import pickle

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vrm.envs import ant, half_cheetah, hopper, swimmer, walker2d
from vrm.envs.captions import caption_truth

FAMILIES = {
    "Ant-v5": (ant.TextGoalAnt, ant),
    "HalfCheetah-v5": (half_cheetah.TextGoalHalfCheetah, half_cheetah),
    "Hopper-v5": (hopper.TextGoalHopper, hopper),
    "Walker2d-v5": (walker2d.TextGoalWalker2d, walker2d),
    "Swimmer-v5": (swimmer.TextGoalSwimmer, swimmer),
}
EVERY_BODY = pytest.mark.parametrize("name", FAMILIES)
GOALS = {
    "Ant-v5": "rearing",
    "HalfCheetah-v5": "on_back",
    "Hopper-v5": "leg_up",
    "Walker2d-v5": "kneeling",
    "Swimmer-v5": "u_shape",
}


@pytest.fixture
def make():
    """Build environments that are closed when the test ends."""
    made = []

    def build(name, **options):
        env = FAMILIES[name][0](**{"render_mode": "rgb_array", **options})
        env.reset(seed=0)
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def sampled():
    """Truths ``(400, K)`` of every fact and rewards ``(400,)`` over sampled states, by name."""
    found = {}
    for name, (cls, module) in FAMILIES.items():
        env, rows, paid = cls(), [], []
        for _, state in zip(range(400), module.sample(env, np.random.default_rng(0), False), strict=False):
            rows.append(module.CAPTIONER.truths(state))
            paid.append(env.reached())
        found[name] = np.stack(rows), np.array(paid)
    return found


def column(name, fact, truths):
    return truths[:, [f.name for f in FAMILIES[name][1].CAPTIONER.facts].index(fact)]


@EVERY_BODY
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")  # without a registered id
def test_gymnasium_finds_nothing_to_complain_about(name, make, monkeypatch):
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.WARN)
    check_env(make(name))


@EVERY_BODY
def test_the_drawn_body_moves_as_gymnasiums(name, make):
    ours, theirs, rng = make(name), gym.make(name).unwrapped, np.random.default_rng(0)
    theirs.reset(seed=0)
    np.testing.assert_allclose(ours.model.body_mass[ours.model.body_mass > 0], theirs.model.body_mass[1:], rtol=1e-6)
    theirs.set_state(ours.data.qpos, ours.data.qvel)
    for _ in range(20):
        action = rng.uniform(-1, 1, ours.model.nu)
        ours.do_simulation(action, 4)
        theirs.do_simulation(action, 4)
    np.testing.assert_allclose(ours.data.qpos, theirs.data.qpos, atol=1e-5)


@EVERY_BODY
def test_episodes_start_at_rest_without_success_and_never_end(name, make):
    env = make(name, render_mode=None)
    env.action_space.seed(0)
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        assert info == {"success": False}
        assert not env.data.qvel.any()
        assert observation.shape == env.observation_space.shape
    for _ in range(150):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert np.isfinite(observation).all()
        assert 0 <= reward <= 1
        assert info["success"] is bool(reward == 1)
        assert not terminated
        assert not truncated


@EVERY_BODY
def test_observations_do_not_tell_the_place_on_the_ground(name, make):
    env = make(name, render_mode=None)
    before = env._get_obs()
    slides = 1 if isinstance(env, hopper.TextGoalPlanar) else 2
    env.data.qpos[:slides] += 3.0
    np.testing.assert_array_equal(env._get_obs(), before)


@EVERY_BODY
def test_a_whole_turn_is_observed_as_no_turn(name, make):
    if name == "Ant-v5":
        return
    env = make(name, render_mode=None)
    before = env._get_obs()
    env.data.qpos[2] += 2 * np.pi
    np.testing.assert_allclose(env._get_obs(), before, atol=1e-12)


@EVERY_BODY
def test_every_fact_is_often_true_and_often_false(name, sampled):
    share = (sampled[name][0] > 0.5).mean(axis=0)
    names = [fact.name for fact in FAMILIES[name][1].CAPTIONER.facts]
    assert len(names) >= 10
    assert {n: s for n, s in zip(names, share, strict=True) if not 0.03 <= s <= 0.97} == {}


@EVERY_BODY
def test_success_is_sampled_and_the_captioner_agrees_with_it(name, sampled):
    truths, paid = sampled[name]
    told = column(name, GOALS[name], truths)
    assert 0.03 < (paid >= 1).mean() < 0.5
    assert (told[paid >= 1] > 0.5).mean() > 0.95
    assert (told[paid < 0.4] < 0.5).all()


@EVERY_BODY
def test_captions_are_true_and_each_phrase_belongs_to_one_fact(name, sampled):
    captioner, rng = FAMILIES[name][1].CAPTIONER, np.random.default_rng(0)
    for truths in sampled[name][0][::5]:
        captions = [captioner.compose(rng, truths) for _ in range(4)]
        assert (caption_truth(truths[None], captions) > 0.5).all()
    owned = [{*fact.phrases, *fact.details} for fact in captioner.facts]
    assert sum(map(len, owned)) == len(set().union(*owned))


def look(env):
    camera, model = env.camera, env.model
    parts = (model.geom_rgba, model.geom_matid, model.geom_pos, model.light_diffuse, model.vis.headlight.diffuse)
    return [np.array([camera.distance, camera.azimuth, camera.fovy, model.vis.global_.fovy]), *map(np.copy, parts)]


@EVERY_BODY
def test_sampling_is_decided_by_the_rng(name, make):
    def play(seed):
        env = make(name, render_mode=None)
        seen = [
            np.concatenate([np.ravel(part) for part in (env.data.qpos, *look(env))])
            for _ in zip(range(12), FAMILIES[name][1].sample(env, np.random.default_rng(seed)), strict=False)
        ]
        return np.stack(seen)

    first = play(1)
    np.testing.assert_array_equal(first, play(1))
    assert not np.array_equal(first, play(2))


@EVERY_BODY
@pytest.mark.parametrize("vary", [False, True])
def test_only_variation_changes_the_look(name, vary, make):
    env = make(name, render_mode=None)
    before = look(env)
    for _ in zip(range(10), FAMILIES[name][1].sample(env, np.random.default_rng(0), vary), strict=False):
        pass
    changed = [not np.array_equal(a, b) for a, b in zip(before, look(env), strict=True)]
    assert all(changed) if vary else not any(changed)


@EVERY_BODY
def test_the_body_fills_a_good_part_of_the_picture_and_the_ground_shows(name, make):
    env = make(name)
    frame = env.render().astype(int)
    env.model.geom_rgba[env.model.geom_bodyid > 0, 3] = 0
    body = np.abs(env.render().astype(int) - frame).max(axis=2) > 30
    assert 0.03 < body.mean() < 0.4
    assert body[[0, -1]].mean() < 0.05
    assert body[:, [0, -1]].mean() < 0.05
    ground = frame[-4:].reshape(-1, 3)
    assert ground.std(axis=0).max() > 3


@EVERY_BODY
def test_a_body_is_put_where_it_is_told(name, make):
    if name == "Swimmer-v5":
        return
    env, rng = make(name, render_mode=None), np.random.default_rng(0)
    for gap in (0.0, 0.3):
        env.put(env.draw_pose(rng)[0], gap)
        assert env.clearance() == pytest.approx(gap, abs=1e-9)
        assert not env.data.qvel.any()


@EVERY_BODY
def test_copies_keep_their_settings(name, make):
    env = make(name, size=40, quality="full")
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        other.reset(seed=0)
        assert other.render().shape == (40, 40, 3)
        assert other.quality == "full"
        other.close()


def hold(env, script):
    """Steer the joints towards ``script(step)`` from the start; whether success holds in each of 100 steps."""
    env.reset(seed=0)
    success = []
    for step in range(100):
        error = script(step) - env.data.qpos[env._angle_at]
        action = np.clip(6 * error - 0.4 * env.data.qvel[env._speed_at], -1, 1)
        success.append(env.step(action)[4]["success"])
    return success


def test_the_swimmer_can_bend_into_a_u_and_stay_so(make):
    assert all(hold(make("Swimmer-v5", render_mode=None), lambda step: np.array([1.4, 1.4]))[-30:])


def test_the_walker_can_kneel_down_and_stay_so(make):
    def script(step):
        return np.array([0, -1.8 * min(1, step / 40), 0.7] * 2)

    assert all(hold(make("Walker2d-v5", render_mode=None), script)[-30:])


@pytest.mark.parametrize(
    ("name", "pitch", "fact"),
    [
        ("HalfCheetah-v5", -1.4, "rearing"),
        ("HalfCheetah-v5", 1.4, "headstand"),
        ("HalfCheetah-v5", np.pi, "on_back"),
        ("Hopper-v5", 0.6, "leaning_forward"),
        ("Hopper-v5", -0.6, "leaning_back"),
        ("Hopper-v5", 1.6, "lying_front"),
        ("Walker2d-v5", 0.6, "leaning_forward"),
        ("Walker2d-v5", np.pi, "headstand"),
        ("Walker2d-v5", 0.0, "standing"),
    ],
)
def test_pitch_means_what_captions_say(name, pitch, fact, make):
    env = make(name, render_mode=None)
    env.put(env.pose(pitch, np.zeros(env.model.nu)), 0.0)
    truths = FAMILIES[name][1].CAPTIONER.truths(env.measure())
    assert column(name, fact, truths[None])[0] > 0.9


@pytest.mark.parametrize(("leg", "fact"), [(0, "right_lifted"), (1, "left_lifted")])
def test_the_walkers_lifted_leg_is_the_one_that_is_told_and_shown(leg, fact, make):
    env = make("Walker2d-v5")
    angles = np.zeros(6)
    angles[3 * leg : 3 * leg + 2] = (-0.6, -1.2)
    env.put(env.pose(0.0, angles), 0.0)
    truths = walker2d.CAPTIONER.truths(env.measure())
    assert column("Walker2d-v5", fact, truths[None])[0] > 0.9
    red, _, blue = env.render().astype(int).transpose(2, 0, 1)
    rows = [np.nonzero(mask)[0].max() for mask in (red - blue > 90, blue - red > 50)]
    assert rows[leg] < rows[1 - leg] - 3, "the lifted leg ends higher in the picture"


@pytest.mark.parametrize(("pitch", "fact"), [(-1.2, "rearing"), (1.2, "headstand")])
def test_the_ants_front_is_where_it_goes(pitch, fact, make):
    env = make("Ant-v5", render_mode=None)
    env.put(np.concatenate([[0, 0, 1], ant.turned(0.3, pitch, 0.0), env.init_qpos[7:]]), 0.0)
    truths = ant.CAPTIONER.truths(env.measure())
    assert column("Ant-v5", fact, truths[None])[0] > 0.9
    assert env.success() is (fact == "rearing")


@pytest.mark.parametrize("leg", range(4))
def test_the_ants_legs_are_told_apart(leg, make):
    env = make("Ant-v5", render_mode=None)
    corner = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])[leg]
    at = env.data.geom(ant.SHINS[leg]).xpos - env.data.body("torso").xpos
    turn = env.data.body("torso").xmat.reshape(3, 3)
    assert (np.sign((at @ turn)[:2]) == corner).all()
    qpos = env.init_qpos.copy()
    qpos[7 + 2 * ant.ORDER[leg]] = 0.5
    env.put(qpos, 0.0)
    assert env.measure().swings[leg] == pytest.approx(np.degrees(0.5))


@pytest.mark.parametrize(("side", "fact"), [(1, "curls_right"), (-1, "curls_left")])
def test_the_swimmers_right_is_right_of_its_head(side, fact, make):
    env = make("Swimmer-v5", render_mode=None)
    env.put(np.array([0, 0, np.pi / 2, 1.4 * side, 1.4 * side]), 0.0)  # the head points up in the picture
    assert column("Swimmer-v5", fact, swimmer.CAPTIONER.truths(env.measure())[None])[0] == 1
    tail = 2 * env.data.geom("rear").xpos - env.data.body("back").xpos
    assert np.sign(tail[0] - env.data.body("mid").xpos[0]) == side


def test_what_is_drawn_touches_and_weighs_nothing(make):
    model = make("Hopper-v5", render_mode=None).model
    drawn = [i for i in range(model.ngeom) if model.geom(i).name.endswith("_drawn")]
    assert len(drawn) == 4
    assert not model.geom_contype[drawn].any()
    assert not model.geom_conaffinity[drawn].any()
    assert (model.geom_group[[model.geom("leg_geom").id, model.geom("foot_geom").id]] > 2).all()
    assert mujoco.mj_getTotalmass(model) == pytest.approx(mujoco.mj_getTotalmass(gym.make("Hopper-v5").unwrapped.model))

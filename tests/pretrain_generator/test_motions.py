import numpy as np
import pytest

from vrm.envs import FAMILIES
from vrm.pretrain_generator.clips import Piece, plan, read_pieces, render_clips, write_piece
from vrm.pretrain_generator.motions import MOTIONS


def states(name, read, frames=8, seed=0):
    motion = MOTIONS[name]
    env = FAMILIES[motion.family].make(size=32, render_mode="rgb_array")
    env.reset(seed=seed)
    values = [read(env) for _ in motion.move(env, np.random.default_rng(seed), frames)]
    env.close()
    return np.array(values)


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion_fills_its_clip_and_moves(name):
    clips = render_clips(Piece(name, 0, 1, 8, 32, 0))
    assert clips.shape == (1, 8, 32, 32, 3)
    assert clips.dtype == np.uint8
    assert (clips[0, 1:] != clips[0, :-1]).any()


@pytest.mark.parametrize(("name", "sign"), [("pole_falls_left", -1), ("pole_falls_right", 1)])
def test_a_pole_falls_to_the_side_that_is_said(name, sign):
    angles = sign * states(name, lambda env: env.state[2])
    assert (np.diff(angles) >= 0).all()
    assert angles[0] < 0.2
    assert angles[-1] > 1


@pytest.mark.parametrize(("name", "sign"), [("cart_left", -1), ("cart_right", 1)])
def test_a_cart_drives_to_the_side_that_is_said(name, sign):
    assert sign * np.diff(states(name, lambda env: env.state[0])[[0, -1]]) > 2


def test_a_humanoid_kneels_down_and_gets_up_by_its_head():
    head = lambda env: env.data.geom("head").xpos[2]  # noqa: E731
    kneel, rise = states("kneel", head), states("stand_up", head)
    assert kneel[0] - kneel[-1] > 0.3
    assert rise[-1] - rise[0] > 0.3


def test_an_arm_ends_on_its_target():
    distance = states(
        "reach", lambda env: np.linalg.norm(env.data.body("fingertip").xpos - env.data.body("target").xpos)
    )
    assert distance[0] > 0.05
    assert distance[-1] < 0.03


def test_no_wording_of_one_motion_is_one_of_another():
    prompts = [prompt for motion in MOTIONS.values() for prompt in motion.prompts + motion.unseen]
    assert len(prompts) == len(set(prompts))


def test_pieces_are_rendered_once_and_read_in_the_layout_of_the_library(tmp_path):
    pieces = [piece for piece in plan(3, 4, 16, seed=1) if piece.motion in ("swing_up", "car_up")]
    for piece in pieces:
        write_piece(piece, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for piece in pieces:
        write_piece(piece, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    clips = read_pieces(pieces, tmp_path)
    assert list(clips) == ["swing_up", "car_up"]
    assert clips["swing_up"].shape == (3, 4, 3, 16, 16)
    assert np.array_equal(clips["car_up"].movedim(-3, -1).numpy(), render_clips(pieces[1]))


def test_clips_depend_on_seed_and_index():
    one, again, other = (render_clips(Piece("swing_low", index, 1, 4, 16, 0)) for index in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)

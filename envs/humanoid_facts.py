"""What can be said about a humanoid: facts with graded truth and the words for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vrm.envs.captions import Captioner, Fact, rise
from vrm.envs.humanoid_state import BodyState

Grade = Callable[[BodyState], float]


def upright(s: BodyState) -> float:
    """The torso points up."""
    return rise(s.up, 0.45, 0.9)


def legs_straight(s: BodyState) -> float:
    """The pelvis is as high as straight legs hold it."""
    return rise(s.pelvis, 0.55, 0.8)


def standing(s: BodyState) -> float:
    """Upright on straight legs, at least one foot down."""
    return upright(s) * legs_straight(s) * rise(float(s.feet.min()), 0.25, 0.06)


def both_feet_down(s: BodyState) -> float:
    """Neither foot is lifted."""
    return rise(float(s.feet.max()), 0.22, 0.06)


def kneeling(s: BodyState) -> float:
    """Upright on both knees, shins lying behind them."""
    shins = float((s.knee_at[:, 0] - s.foot_at[:, 0]).min())
    low = rise(float(s.knees.max()), 0.36, 0.12) * rise(float(s.knee_at[:, 1].max()), 0.4, 0.25)
    return upright(s) * low * rise(shins, 0.0, 0.25) * rise(s.head, 0.5, 0.8)


def one_knee(s: BodyState) -> float:
    """Upright, one knee on the floor, the other up with its foot planted."""
    low, high = np.sort(s.knees)
    return upright(s) * rise(low, 0.25, 0.12) * rise(high, 0.22, 0.36) * rise(s.head, 0.7, 0.95)


def seated(s: BodyState) -> float:
    """Upright with the pelvis near the floor."""
    return upright(s) * rise(s.pelvis, 0.42, 0.27)


def sitting(s: BodyState) -> float:
    """Seated with the legs in front."""
    return seated(s) * rise(float(s.foot_at[:, 0].mean()), 0.1, 0.4) * rise(float(s.knee_bend.max()), 110, 70)


def lotus(s: BodyState) -> float:
    """Seated low, knees out on the floor, feet drawn in."""
    out, drawn = float(s.knee_at[:, 1].min()), float((s.knee_at[:, 1] - s.foot_at[:, 1]).min())
    low = rise(float(s.knees.max()), 0.35, 0.15) * rise(s.pelvis, 0.45, 0.3)
    return upright(s) * low * rise(out, 0.1, 0.22) * rise(drawn, 0.0, 0.15)


def splits(s: BodyState) -> float:
    """On the floor with the legs spread straight to both sides."""
    flat = rise(float(s.knees.max()), 0.4, 0.18) * rise(s.pelvis, 0.45, 0.25)
    return rise(s.up, 0.3, 0.7) * flat * rise(float(s.foot_at[:, 1].sum()), 0.5, 1.1)


def squatting(s: BodyState) -> float:
    """On both feet with the knees deeply bent."""
    bent = rise(float(s.knee_bend.min()), 45, 80) * rise(s.pelvis, 0.7, 0.5)
    return rise(s.up, 0.3, 0.7) * bent * both_feet_down(s) * rise(float(s.knees.min()), 0.2, 0.32)


def one_leg(s: BodyState) -> float:
    """Standing with one foot clearly off the ground."""
    return standing(s) * rise(float(s.feet.max()), 0.06, 0.2)


def lying(s: BodyState) -> float:
    """The torso is level and near the floor."""
    return rise(abs(s.up), 0.75, 0.4) * rise(s.head, 0.6, 0.4) * rise(s.pelvis, 0.6, 0.4)


def bent_over(s: BodyState) -> float:
    """The torso leans far forward over standing legs."""
    return rise(s.up, 0.8, 0.45) * rise(s.facing_up, -0.4, -0.7) * rise(s.pelvis, 0.45, 0.6) * both_feet_down(s)


def all_fours(s: BodyState) -> float:
    """On hands and knees, face to the floor."""
    low = rise(float(s.knees.max()), 0.35, 0.2) * rise(float(s.hands.max()), 0.4, 0.15)
    return rise(abs(s.up), 0.75, 0.5) * rise(s.facing_up, -0.4, -0.7) * low * rise(s.pelvis, 0.25, 0.4)


def leaning_back(s: BodyState) -> float:
    """The torso tilts backwards without lying."""
    return rise(s.facing_up, 0.3, 0.55) * rise(s.head, 0.5, 0.8)


def airborne(s: BodyState) -> float:
    """Nothing touches the ground."""
    lowest = min(float(s.feet.min()), float(s.knees.min()) - 0.06, s.pelvis - 0.1, float(s.hands.min()) - 0.04)
    return rise(lowest, 0.02, 0.12)


def raised(s: BodyState, side: int) -> float:
    """A hand is above the head, along the torso's own axis."""
    return rise(float(s.hand_at[side, 2]), 0.08, 0.32)


def arms_raised(s: BodyState) -> float:
    """Both hands are above the head."""
    return min(raised(s, 0), raised(s, 1))


def only_raised(side: int) -> Grade:
    """One hand is above the head and the other is not."""
    return lambda s: min(raised(s, side), 1 - raised(s, 1 - side))


def hands_on_hips(s: BodyState) -> float:
    """Both hands rest at the hips."""
    return rise(float(np.linalg.norm(s.hand_at - (0.03, 0.15, -0.33), axis=1).max()), 0.16, 0.07)


def arms_crossed(s: BodyState) -> float:
    """Both hands are in front of the chest, across its middle."""
    forward, outward, up = s.hand_at.T
    high = min(rise(float(up.min()), -0.42, -0.25), rise(float(up.max()), 0.3, 0.15))
    return min(rise(float(outward.max()), 0.18, 0.03), rise(float(forward.min()), 0.0, 0.12), high)


def arms_out(s: BodyState) -> float:
    """Both arms stretch to the sides at shoulder height."""
    level = rise(float(np.abs(s.hand_at[:, 2] - 0.06).max()), 0.4, 0.18)
    return rise(float(s.hand_at[:, 1].min()), 0.42, 0.62) * level


def arms_forward(s: BodyState) -> float:
    """Both arms stretch to the front."""
    level = rise(float(np.abs(s.hand_at[:, 2]).max()), 0.4, 0.2)
    return rise(float(s.hand_at[:, 0].min()), 0.3, 0.45) * level


def arms_down(s: BodyState) -> float:
    """Both hands hang beside the thighs."""
    return rise(float(s.hand_at[:, 2].max()), -0.2, -0.38)


def legs_apart(s: BodyState) -> float:
    """The feet are wide apart sideways."""
    return rise(float(s.foot_at[:, 1].sum()), 0.4, 0.75)


NAMED: tuple[Grade, ...] = (
    standing, kneeling, one_knee, sitting, lotus, splits, squatting, one_leg, lying, bent_over, all_fours,
    leaning_back,
)  # fmt: skip


def awkward(s: BodyState) -> float:
    """None of the postures that have a name."""
    return 1 - max(grade(s) for grade in NAMED)


FACTS: tuple[Fact[BodyState], ...] = (
    Fact("standing", standing, (
        "standing", "standing up", "standing upright", "standing on its feet", "on its feet", "standing tall",
        "standing up straight", "in a standing position",
    )),
    Fact("kneeling", kneeling, (
        "kneeling", "kneeling down", "on its knees", "kneeling on the floor", "down on both knees",
        "kneeling on the ground", "in a kneeling position", "resting on its knees", "on bended knees",
    )),
    Fact("one_knee", one_knee, (
        "on one knee", "kneeling on one knee", "down on one knee", "genuflecting", "taking a knee",
    )),
    Fact("sitting", sitting, (
        "sitting", "sitting on the floor", "sitting down", "seated on the ground", "sitting with legs stretched out",
        "seated with its legs in front",
    )),
    Fact("lotus", lotus, (
        "seated down, meditating in the lotus position", "sitting in the lotus position", "sitting cross-legged",
        "meditating", "meditating cross-legged on the floor", "in the lotus pose", "sitting like a yogi",
    )),
    Fact("splits", splits, (
        "doing the splits", "doing the side splits", "practicing gymnastics, doing the side splits",
        "on the floor with legs spread wide to both sides", "in a straddle split", "stretching in a split",
    )),
    Fact("squatting", squatting, (
        "squatting", "crouching", "crouching down", "in a deep squat", "squatting down low",
        "with its knees bent deeply",
    )),
    Fact("one_leg", one_leg, (
        "standing on one leg", "standing up on one leg", "balancing on one leg", "balancing on one foot",
        "standing with one leg lifted", "standing on a single foot",
    )),
    Fact("lying", lying, (
        "lying down", "lying on the floor", "lying on the ground", "fallen over", "collapsed on the floor",
        "fallen to the ground", "flat on the ground", "stretched out on the floor",
    )),
    Fact("lying_back", lambda s: lying(s) * rise(s.facing_up, 0.4, 0.75), (
        "lying on its back", "flat on its back", "lying face up", "fallen on its back",
    )),
    Fact("lying_front", lambda s: lying(s) * rise(s.facing_up, -0.4, -0.75), (
        "lying face down", "lying on its stomach", "flat on its belly", "fallen on its face",
    )),
    Fact("lying_side", lambda s: lying(s) * rise(abs(s.side_up), 0.4, 0.75), (
        "lying on its side", "fallen sideways", "on its side on the floor",
    )),
    Fact("on_floor", lambda s: rise(s.head, 1.0, 0.75), (
        "down on the floor", "low on the ground", "down low", "close to the ground",
    )),
    Fact("upright", upright, (
        "with an upright torso", "holding its body upright", "with its back straight", "sitting or standing upright",
    ), ("with a straight back", "with its torso upright")),
    Fact("bent_over", bent_over, (
        "bending over", "bowing", "bent forward at the waist", "leaning far forward", "touching its toes",
    )),
    Fact("all_fours", all_fours, (
        "on all fours", "on its hands and knees", "crawling", "crawling on the floor",
    )),
    Fact("leaning_back", leaning_back, (
        "leaning back", "leaning backwards", "tilting backwards", "falling backwards",
    ), ("while leaning back",)),
    Fact("upside_down", lambda s: rise(s.up, -0.3, -0.7), (
        "upside down", "standing on its head", "doing a handstand", "with its head below its feet",
    )),
    Fact("airborne", airborne, ("in the air", "jumping", "leaping", "off the ground", "floating above the ground")),
    Fact("arms_raised", arms_raised, (
        "raising both arms", "with both arms raised", "with its hands up", "reaching up with both hands",
        "lifting its arms overhead", "with arms in the air",
    ), ("with both arms raised", "with its arms up", "with both hands above its head", "with arms raised overhead")),
    Fact("right_arm_raised", only_raised(0), (
        "raising its right arm", "with only the right arm raised", "lifting the right hand",
    ), ("with the right arm raised", "with its right hand up")),
    Fact("left_arm_raised", only_raised(1), (
        "raising its left arm", "with only the left arm raised", "lifting the left hand",
    ), ("with the left arm raised", "with its left hand up")),
    Fact("one_arm_raised", lambda s: max(only_raised(0)(s), only_raised(1)(s)), (
        "raising one arm", "waving with one hand", "with one arm raised", "saluting with one arm up",
    ), ("with one arm raised", "with a single hand up")),
    Fact("hands_on_hips", hands_on_hips, (
        "with hands on hips", "with its hands on its hips", "resting its hands on its hips", "with arms akimbo",
    ), ("with hands on hips", "with its hands on its waist", "with arms akimbo")),
    Fact("arms_crossed", arms_crossed, (
        "with its arms crossed", "crossing its arms", "with arms folded", "with its arms folded over the chest",
    ), ("with its arms crossed", "with folded arms", "with its arms crossed in front of the chest")),
    Fact("arms_out", arms_out, (
        "with arms stretched out to the sides", "in a T-pose", "spreading its arms wide", "with outstretched arms",
    ), ("with its arms stretched out sideways", "with arms spread wide")),
    Fact("arms_forward", arms_forward, (
        "reaching forward with both arms", "with both arms stretched forward", "holding its arms out in front",
    ), ("with its arms stretched forward", "with both hands in front")),
    Fact("arms_down", arms_down, (
        "with its arms at its sides", "with its arms hanging down", "with arms lowered",
    ), ("with its arms at its sides", "with arms down", "with lowered arms")),
    Fact("legs_apart", legs_apart, (
        "with legs wide apart", "spreading its legs", "with its feet far apart",
    ), ("with its legs apart", "with legs spread")),
    Fact("awkward", awkward, (
        "in an awkward pose", "in a strange position", "in a contorted posture", "twisted and off balance",
        "losing its balance", "in no particular pose",
    )),
)  # fmt: skip

CAPTIONER: Captioner[BodyState] = Captioner(
    subjects=(
        "a humanoid robot", "a humanoid robot", "a humanoid robot", "a robot", "a humanoid", "the humanoid robot",
        "the robot", "a human-like robot", "an android", "a person", "a figure", "a simulated human",
    ),
    facts=FACTS,
)  # fmt: skip

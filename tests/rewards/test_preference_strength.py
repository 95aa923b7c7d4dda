"""Strength of answers, and what is done about the weak ones."""

import pytest
import torch

from vrm.rewards.preference_strength import halves, judged_by_others, measure_strength, treat_answers

LABELS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 1.0])
LEADS = torch.tensor([-3.0, -1.0, 0.1, 0.2, 0.3, 9.0, 0.5, 1.0, 2.0, 3.0, 4.0])  # of the preferred one


def strength_of(leads):
    side = torch.sign(LABELS - 0.5)
    return measure_strength(torch.stack([side * leads - 0.5, side * leads + 0.5]), LABELS)


def test_mean_and_spread_of_the_lead_of_the_preferred_one():
    found = strength_of(LEADS)
    assert found.mean[5].isnan()
    torch.testing.assert_close(found.mean[LABELS != 0.5], LEADS[LABELS != 0.5])
    torch.testing.assert_close(found.std, torch.full((11,), 0.5))


def test_weak_answers_are_flipped_middling_smoothed_strong_get_a_margin_and_ties_stay():
    treated = treat_answers(LABELS, strength_of(LEADS))
    assert treated.labels.tolist() == pytest.approx([0, 1, 0.95, 0.95, 0.05, 0.5, 0.95, 0, 1, 0, 1])
    torch.testing.assert_close(treated.margins, torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]))
    assert treated.counts == {"flipped": 2, "smoothed": 4, "margin": 4, "ties": 1, "estimated_wrong": 2}


def test_answers_that_all_agree_are_not_flipped():
    treated = treat_answers(LABELS, strength_of(LEADS.abs()))
    assert treated.counts["flipped"] == 0
    assert ((treated.labels - 0.5) * (LABELS - 0.5) >= 0).all()


def test_shares_above_all_are_refused():
    with pytest.raises(ValueError, match="at most 1"):
        treat_answers(LABELS, strength_of(LEADS), lowest=0.7, highest=0.5)


@pytest.mark.parametrize("count", [7, 8])
def test_each_answer_is_judged_by_the_half_without_it(count):
    rows = halves(count, 3, torch.Generator().manual_seed(0))
    assert {len(row) for row in rows} == {(count + 1) // 2}
    differences = torch.arange(6.0)[:, None].expand(6, count)  # a model's number
    judged = judged_by_others(differences, rows)
    assert judged.shape == (3, count)
    for shuffle in range(3):
        both = set(rows[2 * shuffle].tolist()) & set(rows[2 * shuffle + 1].tolist())
        for pair in set(range(count)) - both:
            assert pair not in rows[int(judged[shuffle, pair])].tolist()

"""Query samplers choose what their names say."""

import pytest
import torch

from vrm.errors import UnknownNameError
from vrm.rewards.preference_queries import SAMPLERS, get_sampler


class Opinions:
    """Fixed probabilities."""

    def __init__(self, rows):
        self.rows = torch.tensor(rows)

    def probabilities(self, first, second):
        return self.rows


MODEL = Opinions([[0.5, 0.1, 0.9, 0.45, 0.99, 0.2], [0.5, 0.9, 0.9, 0.55, 0.97, 0.3]])


def pool(count=6, seed=0):
    return torch.randn(2, count, 3, 4, generator=torch.Generator().manual_seed(seed))


def choose(name, count, seed=0, model=MODEL, pairs=None):
    first, second = pool() if pairs is None else pairs
    return get_sampler(name)(model, first, second, count, torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_choices_are_distinct_repeatable_and_at_most_all(name):
    for count in (0, 1, 4, 6, 9):
        found = choose(name, count)
        assert found == choose(name, count)
        assert len(set(found)) == len(found) == min(count, 6)
        assert all(0 <= pair < 6 for pair in found)


def test_disagreement_entropy_and_information_gain_differ_where_they_should():
    assert choose("disagreement", 1) == [1]
    assert set(choose("entropy", 3)) == {0, 1, 3}  # all of mean one half
    assert choose("information_gain", 1) == [1]  # open because opinions differ, not because each is unsure


def test_equals_are_drawn_at_random():
    flat = Opinions([[0.5] * 6] * 2)
    assert len({tuple(choose("entropy", 3, seed, flat)) for seed in range(8)}) > 1


def test_k_centre_takes_one_of_each_cluster():
    centres = torch.eye(4).repeat_interleave(5, dim=0)[:, None] * 10
    first = centres + 0.01 * torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
    found = choose("k_centre", 4, pairs=(first, first))
    assert {pair // 5 for pair in found} == {0, 1, 2, 3}


def test_k_centre_after_entropy_stays_among_the_open_half():
    assert set(choose("k_centre_entropy", 3)) == {0, 1, 3}
    assert set(choose("k_centre_disagreement", 2)) <= {1, 3, 5}


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'entropy'"):
        get_sampler("entropi")

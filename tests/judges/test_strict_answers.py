"""What counts as an answer in words, and what does not."""

import pytest
import torch

from vrm.errors import FrameError
from vrm.judges import Question
from vrm.judges.parse import parse_choice, parse_percentages, parse_signed_percentage


@pytest.mark.parametrize(
    "text", ["yes", "Yes.", ' "YES" ', "**yes**", "Answer: yes", "<think>no?</think>\nYes", "`yes`\n"]
)
def test_a_choice_may_be_dressed_up(text):
    assert parse_choice(text, ["yes", "no"]) == 0


@pytest.mark.parametrize("text", ["", "yes no", "yesterday", "The answer is yes because", "y", "<think>yes", "..."])
def test_anything_else_is_no_choice(text):
    assert parse_choice(text, ["yes", "no"]) is None


@pytest.mark.parametrize("text", ["101", "-100.5", "", "5 or 6", "nan", "1e2", "--5", "five"])
def test_a_signed_percentage_is_one_number_in_range(text):
    assert parse_signed_percentage(text) is None
    assert parse_signed_percentage("-100") == -1


def rows(*pairs):
    items = ", ".join(f'{{"frame_number": {n}, "task_completion_percentage": {v}}}' for n, v in pairs)
    return f"[{items}]"


def test_percentages_are_read_out_of_prose_and_fences():
    expected = torch.tensor([0.1, 0.9])
    for text in (
        rows((2, 90), (1, 10)),
        f"Sure:\n```json\n{rows((1, 10), (2, 90))}\n```",
        "Here: " + rows((1, 10), (2, 90.0)),
    ):
        torch.testing.assert_close(parse_percentages(text, 2), expected)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[1, 2]", "no list", rows((1, 10)), rows((1, 10), (1, 20)), rows((1, 10), (3, 20)),
        rows((1, 10), (2, 101)), rows((1, 10), (2, "null")), rows((1, 10), (2, '"50"')), rows((1, 10), (2, "true")),
        rows((1.5, 10), (2, 20)), rows((1, 10), (2, "NaN")), rows((1, 10), (2, 20))[:-5],
    ],
)  # fmt: skip
def test_percentages_must_be_whole(text):
    assert parse_percentages(text, 2) is None


def test_questions_are_checked():
    with pytest.raises(FrameError, match="uint8"):
        Question((torch.rand(3, 4, 4),))
    for choices in (("yes",), ("yes", "Yes "), ("yes", "")):
        with pytest.raises(ValueError, match="two or more different words"):
            Question(("?",), choices)
    image = torch.zeros(3, 2, 4, dtype=torch.uint8)
    assert Question((image,)).digest() != Question((image.reshape(3, 4, 2),)).digest()
    assert Question(("ab", "c")).digest() != Question(("a", "bc")).digest()

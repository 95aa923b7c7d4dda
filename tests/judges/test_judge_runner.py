"""What the runner promises: nothing is paid twice, limits hold, a kill loses nothing."""

import asyncio
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from openai_server import failing
from pictures import grey, quick, yes_or_no

from vrm.judges import BudgetError, HTTPJudge, JudgeRunner, SimJudge

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def many():
    return [yes_or_no(level) for level in LEVELS]


def test_nothing_is_asked_twice(server, tmp_path):
    judge = HTTPJudge(server.url, "m")
    runner = quick(judge, tmp_path)
    first = runner.choose(many() + many())
    assert len(server.bodies) == len(LEVELS)
    assert (runner.counts.asked, runner.counts.cached) == (16, 8)
    again = quick(judge, tmp_path)
    assert torch.equal(again.choose(many() + many()), first)
    assert len(server.bodies) == len(LEVELS)
    assert again.counts.requests == 0


def test_another_model_another_question_or_another_picture_is_asked(server, tmp_path):
    quick(HTTPJudge(server.url, "m"), tmp_path).choose([yes_or_no(0.5)])
    quick(HTTPJudge(server.url, "n"), tmp_path).choose([yes_or_no(0.5)])
    changed = yes_or_no(0.5)
    changed.parts[1][0, 3, 4] += 1
    quick(HTTPJudge(server.url, "m"), tmp_path).choose([changed])
    assert len(server.bodies) == 3


def test_damaged_and_unfinished_answers_on_disk_are_asked_again(server, tmp_path):
    judge = HTTPJudge(server.url, "m")
    wanted = quick(judge, tmp_path).choose([yes_or_no(0.5)])
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    for damage in ("", "{", "[]", '{"probabilities": [0.2, 0.2], "text": "", "mass": 1, "tokens": 1}'):
        file.write_text(damage)
        assert torch.equal(quick(judge, tmp_path).choose([yes_or_no(0.5)]), wanted)
    assert len(server.bodies) == 5


def test_requests_run_at_once_but_not_more_than_allowed(server):
    server.delay = 0.05
    runner = quick(HTTPJudge(server.url, "m"), concurrency=3)
    runner.choose(many())
    assert server.most_under_way == 3


def test_requests_per_minute_keep_their_distance(server):
    begun = time.monotonic()
    quick(HTTPJudge(server.url, "m"), requests_per_minute=1200).choose(many()[:5])
    assert time.monotonic() - begun >= 4 * 60 / 1200


def test_a_spent_request_budget_stops_and_what_was_paid_is_kept(server, tmp_path):
    runner = quick(HTTPJudge(server.url, "m"), tmp_path, max_requests=3)
    with pytest.raises(BudgetError, match=r"max_requests=3 is spent .*raise the limit"):
        runner.choose(many())
    assert len(server.bodies) == 3
    assert not quick(HTTPJudge(server.url, "m"), tmp_path).choose(many()).isnan().any()
    assert len(server.bodies) == len(LEVELS)


def test_a_spent_token_budget_stops(server):
    runner = quick(HTTPJudge(server.url, "m", concurrency=1), max_tokens=25)
    with pytest.raises(BudgetError, match="max_tokens=25"):
        runner.choose(many())
    assert runner.counts.tokens == 30  # ten each: the third went out with five left


def test_a_batch_is_cut_to_what_the_budget_has_left(sim_encoder, tmp_path):
    judge = SimJudge(sim_encoder)
    with pytest.raises(BudgetError):
        quick(judge, tmp_path, max_requests=5).choose(many())
    runner = quick(judge, tmp_path, max_requests=3)
    assert not runner.choose(many()).isnan().any()
    assert runner.counts.requests == 3


def test_repeats_count_against_the_budget(server):
    server.trouble.extend([failing(500)] * 5)
    with pytest.raises(BudgetError):
        quick(HTTPJudge(server.url, "m"), max_requests=2, retries=4).choose([yes_or_no(0.5)])
    assert len(server.bodies) == 2


def test_a_killed_run_goes_on_where_it_was(server, tmp_path):
    """The process is killed with SIGKILL in the middle; what it had paid for is not paid again."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pictures import quick, yes_or_no
        from vrm.judges import HTTPJudge
        quick(HTTPJudge({server.url!r}, "m", concurrency=1), {str(tmp_path)!r}).choose(
            [yes_or_no(i / 100) for i in range(10, 90)]
        )
    """
    server.delay = 0.02
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    until = time.monotonic() + 60
    while len(server.bodies) < 12 and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.1)
    paid = len(server.bodies)
    assert 12 <= paid < 80
    runner = quick(HTTPJudge(server.url, "m"), tmp_path)
    assert not runner.choose([yes_or_no(i / 100) for i in range(10, 90)]).isnan().any()
    assert len(server.bodies) - 80 in (0, 1)  # the request under way when it died may have been lost
    assert runner.counts.cached >= paid - 1


def test_it_may_be_asked_inside_a_running_event_loop(sim_encoder):
    runner = JudgeRunner(SimJudge(sim_encoder))

    async def ask():
        return runner.choose([yes_or_no(0.5)])

    assert asyncio.run(ask()).shape == (1, 2)


def test_a_runner_can_be_sent_to_another_process(server):
    runner = pickle.loads(pickle.dumps(quick(HTTPJudge(server.url, "m"))))
    assert runner.choose([yes_or_no(0.5)]).shape == (1, 2)


@pytest.mark.parametrize("limit", ["concurrency", "requests_per_minute", "max_requests", "max_tokens"])
def test_limits_must_be_positive(sim_encoder, limit):
    with pytest.raises(ValueError, match=f"{limit} must be positive, got 0"):
        JudgeRunner(SimJudge(sim_encoder), **{limit: 0})


def test_no_questions_cost_nothing(sim_encoder):
    runner = JudgeRunner(SimJudge(sim_encoder))
    assert runner.ask([]) == []
    assert "0 requests" in str(runner.counts)
    assert grey(0.5).shape == (1, 3, 12, 12)

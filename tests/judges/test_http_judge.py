"""A judge behind a real server: what is sent, what is read, and what happens when the server misbehaves."""

import json
import time

import pytest
import torch
from openai_server import failing
from pictures import grey, quick, yes_or_no
from starlette.responses import PlainTextResponse

from vrm.judges import HTTPJudge, JudgeError, Question, holds, prefer, rate
from vrm.judges.http import choice_probabilities


def judge_at(server, **settings):
    return HTTPJudge(server.url, "bright-1", **settings)


def test_probabilities_are_those_of_the_first_words_alternatives(server):
    found = quick(judge_at(server)).choose([yes_or_no(0.8), yes_or_no(0.2)])
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.2], [0.2, 0.8]]))
    assert server.bodies[0]["model"] == "bright-1"
    assert server.bodies[0]["temperature"] == 0


def test_pictures_arrive_whole_as_png_and_nearly_so_as_jpeg(server):
    for kind in ("png", "jpeg"):
        found = quick(judge_at(server, image_format=kind)).choose([yes_or_no(0.6)])
        torch.testing.assert_close(found, torch.tensor([[0.6, 0.4]]), atol=0.01, rtol=0)
        assert server.bodies[-1]["messages"][0]["content"][1]["image_url"]["url"].startswith(f"data:image/{kind};")


def test_without_token_probabilities_the_written_word_decides(server, caplog):
    server.logprobs = False
    runner = quick(judge_at(server))
    assert runner.choose([yes_or_no(0.8), yes_or_no(0.2)]).tolist() == [[1, 0], [0, 1]]
    server.text = "I would say that it depends."
    assert runner.choose([yes_or_no(0.7)]).isnan().all()
    assert runner.counts.unparsable == 1
    assert runner.counts.failed == 0
    assert "3 asked, 0 cached, 3 requests (0 retries), 0 failed, 1 unparsable" in caplog.text


def test_ways_to_ask_work_over_http(server):
    runner, dark, light = quick(judge_at(server)), grey(0.2)[None], grey(0.8)[None]
    assert holds(runner, light, ["a bright picture"]) > 0.7
    preferences = prefer(runner, light, dark, ["a bright picture"], form="one")
    torch.testing.assert_close(preferences.probabilities.sum(dim=1), torch.ones(1))
    assert preferences.label > 0.7
    assert bool(preferences.agree)
    assert rate(runner, light, ["a bright picture"]).item() == pytest.approx(4.5)


def test_passing_failures_are_repeated(server):
    runner = quick(judge_at(server))
    server.trouble.extend([failing(429), failing(500), failing(503)])
    assert not runner.choose([yes_or_no(0.8)]).isnan().any()
    assert (runner.counts.requests, runner.counts.retried, runner.counts.failed) == (4, 3, 0)


def test_the_server_says_how_long_to_wait(server):
    server.trouble.append(failing(429, **{"retry-after": "0.4"}))
    begun = time.monotonic()
    quick(judge_at(server)).choose([yes_or_no(0.8)])
    assert time.monotonic() - begun >= 0.4


def test_a_slow_answer_is_given_up_and_asked_for_again(server):
    runner = quick(judge_at(server, timeout=0.6))
    server.trouble.append(2.0)
    assert not runner.choose([yes_or_no(0.8)]).isnan().any()
    assert runner.counts.retried >= 1


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "{}"]
)
def test_a_malformed_answer_is_asked_for_again(server, body):
    runner = quick(judge_at(server))
    server.trouble.append(PlainTextResponse(body))
    assert not runner.choose([yes_or_no(0.8)]).isnan().any()
    assert runner.counts.retried == 1


def test_a_question_that_keeps_failing_is_counted_and_the_others_kept(server):
    runner = quick(judge_at(server, concurrency=1), retries=1)
    server.trouble.extend([failing(500), failing(500)])
    found = runner.choose([yes_or_no(0.8), yes_or_no(0.2)])
    assert found[0].isnan().all()
    assert not found[1].isnan().any()
    assert runner.counts.failed == 1
    assert not runner.choose([yes_or_no(0.8)]).isnan().any()  # a failure is not remembered


def test_when_every_question_fails_one_sentence_says_why(server):
    server.trouble.extend([failing(400, "image too large")] * 2)
    with pytest.raises(JudgeError, match=r"none of 2 questions.*image too large"):
        quick(judge_at(server)).choose([yes_or_no(0.8), yes_or_no(0.2)])


def test_a_server_that_is_down_is_named(server):
    server.stop()
    with pytest.raises(JudgeError, match=r"cannot be reached .* is the server up.*Tried 2 times"):
        quick(judge_at(server), retries=1).choose([yes_or_no(0.8)])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_repeat_can_cure_stops_at_once(server, status):
    server.trouble.append(failing(status, "no"))
    runner = quick(judge_at(server))
    with pytest.raises(JudgeError, match=f"HTTP {status}.*check the address, model 'bright-1'"):
        runner.choose([yes_or_no(0.8)])
    assert runner.counts.requests == 1


def test_fields_that_a_server_refuses_are_left_out(server):
    server.trouble.extend(
        [
            failing(400, "top_logprobs must be at most 5"),
            failing(400, "Use max_completion_tokens instead of max_tokens"),
            failing(400, "temperature is not supported"),
            failing(400, "logprobs are not available for this model"),
        ]
    )
    runner = quick(judge_at(server), retries=0)
    assert runner.choose([yes_or_no(0.8)]).tolist() == [[1, 0]]
    last = server.bodies[-1]
    assert "max_completion_tokens" in last
    assert not {"logprobs", "top_logprobs", "max_tokens", "temperature"} & set(last)


def test_the_key_comes_from_the_environment_and_goes_into_the_header_only(server, monkeypatch, tmp_path):
    monkeypatch.setenv("BRIGHT_KEY", "sk-secret-123")
    judge = judge_at(server, api_key_env="BRIGHT_KEY")
    runner = quick(judge, tmp_path)
    runner.choose([yes_or_no(0.8)])
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    written = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert written
    assert "secret" not in json.dumps([written, judge.settings(), judge.identity(), repr(vars(judge)), server.bodies])
    server.trouble.append(failing(401, "Incorrect key sk-secret-123"))
    with pytest.raises(JudgeError, match=r"Incorrect key \*\*\*"):
        runner.choose([yes_or_no(0.1)])
    monkeypatch.delenv("BRIGHT_KEY")
    with pytest.raises(JudgeError, match="'BRIGHT_KEY', which is not set"):
        runner.choose([yes_or_no(0.3)])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://user:sk-secret@host/v1", "http:///v1"])
def test_an_address_must_be_plain_http(url):
    with pytest.raises(ValueError, match="url must read like") as caught:
        HTTPJudge(url, "m")
    assert "secret" not in str(caught.value)


def test_free_text_comes_back_as_written(server):
    server.text = "a grey picture"
    replies = quick(judge_at(server)).ask([Question(("What is it?", grey(0.5)[0]))])
    assert (replies[0].text, replies[0].tokens) == ("a grey picture", 10)


def test_tokens_that_do_not_tell_choices_apart_give_no_probabilities():
    shared = [{"token": "-", "top_logprobs": [{"token": "-", "logprob": -0.1}]}]
    assert choice_probabilities(shared, ["-10", "-20"]) == (None, 0.0)
    begun = [{"token": "Tr", "top_logprobs": [{"token": "Tr", "logprob": -0.1}, {"token": "False", "logprob": -3}]}]
    assert choice_probabilities(begun, ["True", "False"])[0][0] > 0.9
    other = [{"token": "The", "top_logprobs": [{"token": "The", "logprob": -0.1}]}]
    assert choice_probabilities(other, ["yes", "no"]) == (None, 0.0)

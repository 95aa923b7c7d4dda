"""A real model of transformers as a judge: tiny, with random weights, loaded from disk like any other."""

import json
import shutil

import pytest
import torch
from pictures import grey, quick, yes_or_no
from tiny_vlm import write_llava, write_qwen

from vrm.errors import CheckpointError
from vrm.judges import HFJudge, Question, change, holds, log_true, prefer, rate, shuffled_progress


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llava(tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture(scope="module", params=["llava", "qwen2-vl"])
def judge(request, folder, tmp_path_factory):
    if request.param == "llava":
        return HFJudge(str(folder), batch=3)
    return HFJudge(str(write_qwen(tmp_path_factory.mktemp("vlm") / "qwen")), batch=3)


def sequence_probability(judge, question, tokens):
    """Probability of writing ``tokens`` from one plain forward pass, without the judge's own code."""
    prompt = judge._prompt([question])
    start = prompt["input_ids"].shape[1]
    prompt["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([tokens])], dim=1)
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    if "mm_token_type_ids" in prompt:
        prompt["mm_token_type_ids"] = torch.nn.functional.pad(prompt["mm_token_type_ids"], (0, len(tokens)))
    with torch.no_grad():
        logs = judge.model(**prompt).logits[0].log_softmax(dim=-1)
    return float(sum(logs[start - 1 + i, token] for i, token in enumerate(tokens)).exp())


def test_probabilities_sum_to_one_and_differ_by_picture(judge):
    found = quick(judge).choose([yes_or_no(0.1), yes_or_no(0.9)])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_a_choice_has_the_probability_of_all_its_spellings(judge):
    question = yes_or_no(0.3)
    (reply,) = quick(judge).ask([question])
    encode = judge.tokenizer.encode
    expected = []
    for choice in question.choices:
        ways = {tuple(encode(s + w, add_special_tokens=False)) for w in (choice, choice.title()) for s in ("", " ")}
        expected.append(sum(sequence_probability(judge, question, way) for way in ways))
    assert reply.mass == pytest.approx(sum(expected), rel=1e-4)
    assert reply.probabilities == pytest.approx([e / sum(expected) for e in expected], rel=1e-4)


def test_a_choice_of_several_tokens_is_followed_to_its_end(judge):
    question = Question(("Which?", grey(0.5)[0]), ("kneel", "zebra"))
    assert len(judge.tokenizer.encode("zebra", add_special_tokens=False)) > 2
    (reply,) = quick(judge).ask([question])
    encode = judge.tokenizer.encode
    ways = {tuple(encode(s + w, add_special_tokens=False)) for w in ("zebra", "Zebra") for s in ("", " ")}
    expected = sum(sequence_probability(judge, question, way) for way in ways)
    assert reply.probabilities[1] * reply.mass == pytest.approx(expected, rel=1e-3)


def test_a_choice_that_begins_another_does_not_take_its_share(judge):
    question = Question(("How many?", grey(0.5)[0]), ("1", "12"))
    (reply,) = quick(judge).ask([question])
    one, two = (judge.tokenizer.encode(c, add_special_tokens=False)[0] for c in "12")
    space = judge.tokenizer.encode(" 1", add_special_tokens=False)
    longer = sequence_probability(judge, question, [one, two]) + sequence_probability(judge, question, [*space, two])
    whole = sequence_probability(judge, question, [one]) + sequence_probability(judge, question, space)
    assert reply.probabilities[1] * reply.mass == pytest.approx(longer, rel=1e-3)
    assert reply.mass == pytest.approx(whole, rel=1e-4)


def test_a_batch_gives_what_single_questions_give(judge):
    questions = [yes_or_no(0.2), Question(("Two:", *grey(0.2, 0.7), "longer text here, yes or no?"), ("yes", "no"))]
    questions += [yes_or_no(0.6), Question(("No picture at all. Yes or no?",), ("yes", "no")), yes_or_no(0.9)]
    together = quick(judge).choose(questions)
    alone = torch.cat([quick(judge).choose([question]) for question in questions])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_way_to_ask_works(judge):
    runner, a, b = quick(judge), grey(0.2)[None], grey(0.9)[None]
    preferences = prefer(runner, torch.cat([a, b]), torch.cat([b, a]), ["a bright picture"] * 2)
    torch.testing.assert_close(preferences.probabilities.sum(dim=1), torch.ones(2))
    assert preferences.label[0] == pytest.approx(1 - float(preferences.label[1]), abs=1e-5)
    assert 0 <= float(holds(runner, a, ["a bright picture"])) <= 1
    assert -20.8 < float(log_true(runner, a, ["a bright picture"])) < 0
    assert 1 <= float(rate(runner, a, ["a bright picture"])) <= 5
    assert -1 <= float(change(runner, a[0], b[0], ["a bright picture"]).delta) <= 1
    (progress,) = shuffled_progress(quick(judge), [grey(0.1, 0.5, 0.9)], ["a bright picture"])
    assert progress.values.isnan().all()  # random weights write no JSON, and nothing is made up for them


def test_free_text_is_the_same_every_time_and_no_longer_than_asked(judge):
    question = Question(("What is it?", grey(0.5)[0]), max_tokens=7)
    first, second = (quick(judge).ask([question])[0] for _ in range(2))
    assert first == second
    read = judge._prompt([question])["input_ids"].shape[1]
    assert read < first.tokens <= read + 7


def test_the_callers_random_numbers_stay_as_they_are(judge):
    before = torch.random.get_rng_state()
    quick(judge).choose([yes_or_no(0.4)])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_weights_are_another_judge(judge, tmp_path):
    assert HFJudge(judge.source).identity() == judge.identity()
    assert HFJudge(str(write_llava(tmp_path / "other", seed=1))).identity() != judge.identity()


def test_models_that_cannot_judge_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(CheckpointError, match="could not be loaded"):
        HFJudge(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="no chat template"):
        HFJudge(str(write_llava(tmp_path / "mute", template=None)))
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        HFJudge(str(broken))
    other = shutil.copytree(folder, tmp_path / "unfit")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tensors are missing or have another shape"):
        HFJudge(str(other))


def test_code_in_a_model_folder_is_never_run(folder, tmp_path):
    evil = shutil.copytree(folder, tmp_path / "evil")
    config = json.loads((evil / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"},
    }
    (evil / "config.json").write_text(json.dumps(config))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(CheckpointError):
        HFJudge(str(evil))
    assert not (tmp_path / "ran").exists()

"""Scores of real videos: right, the same whatever the machinery, and made once."""

import json

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from clips import write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import NaNEncoder, TinyEncoder

import vrm
from vrm.cli import main
from vrm.encoders import load_encoder
from vrm.errors import VrmError
from vrm.rewards import Flicker, GoalReward, RewardModel, SegmentalReward, Sum
from vrm.scoring.batches import TOWER_BATCH, FrameBatcher, embed
from vrm.scoring.pipeline import Settings
from vrm.scoring.plan import make_plan
from vrm.scoring.run import TooManyErrorsError, score_plan
from vrm.scoring.schema import ROW
from vrm.video import sample_video

PROMPTS = ["a humanoid robot kneeling", "a pole standing upright"]


@pytest.fixture(scope="module")
def sim():
    return load_encoder("vrm-sim")


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were decoded in this process."""
    import vrm.video.jobs as jobs

    paths = []
    real = jobs.decode_sample
    monkeypatch.setattr(jobs, "decode_sample", lambda path, *a, **k: (paths.append(path), real(path, *a, **k))[1])
    return paths


def numbers(table):
    return table.select(["id", "prompt", "reward", "score", "dimensions", "values", "error_kind"]).to_pylist()


@pytest.mark.parametrize("frames", ["segments:8", "fps:5", "all"])
def test_scores_are_those_of_the_reward_on_the_frames(sim, clips, frames):
    goal = GoalReward(sim, "anything", "a video", alpha=0.5)
    parts = {"goal": goal, "flicker": Flicker()}
    rewards = {"goal": goal, "segmental": SegmentalReward(goal, 3), "sum": Sum(parts), "flicker": Flicker()}
    table = vrm.score(clips[:2], rewards, PROMPTS, frames=frames)
    assert table.schema.equals(ROW)
    assert table["reward"].to_pylist() == list(rewards) * 2
    for row in table.to_pylist():
        reward = rewards[row["reward"]]
        sample = sample_video(row["path"], frames)
        clip, count = sample.frames[None], len(sample.indices)
        state = {"frame_index": torch.tensor([sample.indices]), "frame_count": torch.full((1, count), 20)}
        assert row["score"] == pytest.approx(reward.score(clip, [row["prompt"]], state).item(), abs=1e-6)
        expected = {k: v.item() for k, v in reward.dimensions(clip, [row["prompt"]], state).items()}
        assert dict(row["dimensions"]) == pytest.approx(expected, abs=1e-6)
        curve = (goal if row["reward"] == "segmental" else reward)(clip, [row["prompt"]], state)[0]
        assert row["values"] == pytest.approx(curve.tolist(), abs=1e-6)
        assert tuple(row["frame_indices"]) == sample.indices
        assert (row["frames"], row["height"], row["codec"]) == (20, 64, "h264")


def test_workers_and_batches_do_not_change_a_byte(sim, clips):
    rewards = {"goal": GoalReward(sim, "x"), "segmental": SegmentalReward(GoalReward(sim, "x"))}
    reference = vrm.score(clips, rewards, PROMPTS, matrix=True)
    for workers, batch_size in ((0, 1), (0, 32), (2, 1000)):
        found = vrm.score(clips, rewards, PROMPTS, matrix=True, workers=workers, batch_size=batch_size)
        assert found.equals(reference), (workers, batch_size)


def test_a_matrix_equals_its_single_calls(sim, clips):
    reward = GoalReward(sim, "x", "a video", alpha=0.5)
    together = numbers(vrm.score(clips, reward, PROMPTS, matrix=True))
    alone = [numbers(vrm.score(clip, reward, prompt))[0] for clip in clips for prompt in PROMPTS]
    assert together == alone


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=6), seed=st.integers(0, 99), batch=st.integers(1, 99))
def test_features_do_not_depend_on_what_shares_the_batch(lengths, seed, batch):
    encoder = TinyEncoder()
    videos = [torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed + n)) for n in lengths]
    batcher = FrameBatcher(encoder, batch)
    found = {}
    for number, frames in enumerate(videos):
        found.update(batcher.add(number, frames))
    found.update(batcher.flush())
    assert set(encoder.calls) == {TOWER_BATCH}
    for number, frames in enumerate(videos):
        assert torch.equal(found[number], embed(encoder, frames))


def test_frames_of_several_videos_fill_one_batch(clips):
    encoder = TinyEncoder()
    vrm.score(clips, GoalReward(encoder, "x"), PROMPTS[0])  # 4 videos of 8 frames
    assert encoder.calls == [TOWER_BATCH]


def test_two_prompts_for_one_video_decode_and_encode_it_once(clips, decoded):
    encoder = TinyEncoder()
    table = vrm.score(clips[0], GoalReward(encoder, "x"), PROMPTS, matrix=True)
    assert len(table) == 2
    assert len(decoded) == 1
    assert len(encoder.calls) == 1


def test_the_cache_spares_decoding_and_encoding(tmp_path, clips, decoded):
    encoder = TinyEncoder()
    first = vrm.score(clips, {"a": GoalReward(encoder, "x"), "f": Flicker()}, PROMPTS[0], cache=tmp_path)
    assert len(decoded) == 4
    assert len(encoder.calls) == 1
    again = vrm.score(clips, {"a": GoalReward(encoder, "x"), "f": Flicker()}, PROMPTS[0], cache=tmp_path)
    other = vrm.score(clips, SegmentalReward(GoalReward(encoder, "y")), PROMPTS[1], cache=tmp_path)
    assert again.equals(first)
    assert other["score"].null_count == 0
    assert len(decoded) == 4
    assert len(encoder.calls) == 1


def test_the_cache_knows_a_moved_video_by_its_content(tmp_path, decoded):
    encoder = TinyEncoder()
    video = write_clip(tmp_path / "a.mp4")
    before = vrm.score(video, GoalReward(encoder, "x"), PROMPTS[0], cache=tmp_path / "cache")
    after = vrm.score(video.rename(tmp_path / "b.mp4"), GoalReward(encoder, "x"), PROMPTS[0], cache=tmp_path / "cache")
    assert after["score"].equals(before["score"])
    assert len(decoded) == len(encoder.calls) == 1


def test_the_cache_notices_what_changed(tmp_path, decoded):
    video, cache = tmp_path / "a.mp4", tmp_path / "cache"
    reward = GoalReward(TinyEncoder(), "x")
    write_clip(video, 0)
    scores = [vrm.score(video, reward, PROMPTS[0], cache=cache)["score"][0].as_py()]
    write_clip(video, 1)
    scores.append(vrm.score(video, reward, PROMPTS[0], cache=cache)["score"][0].as_py())
    scores.append(vrm.score(video, reward, PROMPTS[0], cache=cache, frames="uniform:3")["score"][0].as_py())
    scores.append(vrm.score(video, GoalReward(TinyEncoder(1), "x"), PROMPTS[0], cache=cache)["score"][0].as_py())
    assert len(set(scores)) == 4
    assert len(decoded) == 4


def test_a_damaged_cache_file_is_made_again(tmp_path, clips, decoded):
    reward = GoalReward(TinyEncoder(), "x")
    first = vrm.score(clips[:1], reward, PROMPTS[0], cache=tmp_path)
    for file in tmp_path.glob("*/*.safetensors"):
        file.write_bytes(b"nonsense")
    assert vrm.score(clips[:1], reward, PROMPTS[0], cache=tmp_path).equals(first)
    assert len(decoded) == 2
    vrm.score(clips[:1], reward, PROMPTS[0], cache=tmp_path)
    assert len(decoded) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_files_are_rows_and_the_others_go_on(tmp_path, clips, workers):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video" * 100)
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:2000])
    bad = [tmp_path / "zero.mp4", tmp_path / "text.mp4", tmp_path / "cut.mp4", tmp_path / "gone.mp4"]
    reward = GoalReward(TinyEncoder(), "x")
    table = vrm.score([*bad[:2], *clips, *bad[2:]], reward, PROMPTS[0], workers=workers)
    kinds = table["error_kind"].to_pylist()
    assert kinds[:6] == ["empty", "not_video", None, None, None, None]
    assert kinds[6] in ("truncated", "damaged", "not_video")
    assert kinds[7] == "missing"
    assert all("\n" not in text and str(tmp_path) in text for text in table["error"].drop_null().to_pylist())
    assert table.slice(2, 4).drop_columns("index").equals(vrm.score(clips, reward, PROMPTS[0]).drop_columns("index"))


class BlackIsNaN(TinyEncoder):
    """An encoder that cannot take black frames."""

    def image_features(self, pixels):
        return super().image_features(pixels) / (pixels.flatten(1).amax(1, keepdim=True) > -1)


def test_an_encoder_that_fails_on_one_video_fails_for_that_row_only(tmp_path, clips):
    from vrm.video import write_video

    black = write_video(tmp_path / "black.mp4", torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
    table = vrm.score([clips[0], black, clips[1]], GoalReward(BlackIsNaN(), "x"), PROMPTS[0])
    assert table["error_kind"].to_pylist() == [None, "model", None]
    good = vrm.score(clips[:2], GoalReward(BlackIsNaN(), "x"), PROMPTS[0])
    assert table["score"].drop_null().to_pylist() == good["score"].to_pylist()


def test_a_broken_model_is_an_error_in_every_row(clips):
    table = vrm.score(clips, GoalReward(NaNEncoder(), "x"), PROMPTS[0])
    assert set(table["error_kind"].to_pylist()) == {"model"}
    assert "NaN" in table["error"][0].as_py()


class Refuses(RewardModel):
    """A reward that needs the speed of something."""

    state_keys = ("speed",)

    def terms(self, clips, goals=None, state=None):
        return {"x": state["speed"]}

    def combine(self, terms):
        return terms["x"]

    def config(self):
        return {}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls()


def test_a_reward_that_reads_more_than_a_video_is_refused(clips):
    with pytest.raises(ValueError, match="speed"):
        vrm.score(clips, Refuses(), PROMPTS[0])


def test_a_prompt_that_is_cut_is_noted_without_a_warning(sim, clips):
    long = " ".join(["a humanoid robot kneeling on the floor"] * 30)
    table = vrm.score(clips[0], GoalReward(sim, "x"), [PROMPTS[0], long], matrix=True)
    assert table["prompt_truncated"].to_pylist() == [False, True]
    assert table["prompt_tokens"].to_pylist() == sim.count_tokens([PROMPTS[0], long])[0]
    assert table["prompt_tokens_read"].to_pylist() == [table["prompt_tokens"][0].as_py(), 48]
    assert vrm.score(clips[0], Flicker(), PROMPTS[0])["prompt_truncated"].to_pylist() == [None]


def test_a_saved_reward_scores_without_prompts(tmp_path, sim, clips):
    reward = GoalReward(sim, PROMPTS[0])
    reward.save(tmp_path / "kneel.safetensors")
    saved = vrm.score(clips, str(tmp_path / "kneel.safetensors"))
    assert set(saved["reward"].to_pylist()) == {"kneel"}
    given = vrm.score(clips, GoalReward(sim, "x"), PROMPTS[0])
    assert saved["score"].to_pylist() == pytest.approx(given["score"].to_pylist(), abs=1e-6)
    with pytest.raises(VrmError, match="none is given"):
        vrm.score(clips, "goal")


def test_named_rewards_share_one_encoder_and_take_settings(clips):
    from vrm.configuration import build_rewards

    rewards = build_rewards(
        ["goal", "segmental"], overrides=["segmental.segments=3", "reward.image_reward.alpha=0.5"][:1]
    )
    assert rewards["segmental"].count == 3
    assert rewards["goal"].encoder is rewards["segmental"].image_reward.encoder
    with pytest.raises(VrmError, match="Did you mean 'segmental'"):
        build_rewards(["segmentl"])
    with pytest.raises(VrmError, match="do not fit"):
        build_rewards(["goal"], overrides=["goal.nonsense=1"])
    with pytest.raises(VrmError, match="named 'goal'"):
        build_rewards(["goal", "goal"])


def test_too_many_errors_stop_the_run_and_keep_what_is_there(tmp_path):
    plan = make_plan([tmp_path / f"{n}.mp4" for n in range(9)], PROMPTS[0])
    rewards = {"goal": GoalReward(TinyEncoder(), "x")}
    with pytest.raises(TooManyErrorsError, match="3 errors"):
        score_plan(plan, rewards, Settings(), tmp_path / "out", max_errors=2)
    assert len(list((tmp_path / "out" / "parts").glob("part*"))) == 1


def test_command_scores_continues_and_exports(tmp_path, clips, capsys):
    out = tmp_path / "scores"
    common = ["score", *map(str, clips[:2]), "--prompt", PROMPTS[0], "--out", str(out), "--workers", "0"]
    common += ["--cache", str(tmp_path / "cache")]
    assert main([*common, "--reward", "goal,flicker", "--csv", "--jsonl"]) == 0
    assert "4 rows, 0 with errors" in capsys.readouterr().out
    table = pq.read_table(out / "scores.parquet")
    assert table["score"].to_pylist() == pacsv.read_csv(out / "scores.csv")["score"].to_pylist()
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [line["values"] for line in lines] == table["values"].to_pylist()
    run = json.loads((out / "run.json").read_text())
    assert run["identity"]["sampler"] == "segments:8"
    assert run["versions"]["torch"]

    before = (out / "scores.parquet").stat().st_mtime_ns
    assert main([*common, "--reward", "goal,flicker"]) == 0
    assert (out / "scores.parquet").stat().st_mtime_ns == before
    (tmp_path / "bad.mp4").write_text("no video" * 50)
    assert main([*common, str(tmp_path / "bad.mp4"), "--reward", "goal,flicker"]) == 3
    assert "6 rows, 2 with errors" in capsys.readouterr().out
    assert main([*common, "--reward", "goal", "goal.alpha=0.5", "task.baseline=a robot"]) == 0
    assert "holds scores of other rewards or settings" in capsys.readouterr().out
    assert len(list(tmp_path.glob("scores-????????"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no file or folder"),
        (["a.mp4", "--reward", "goul"], "Did you mean 'goal'?"),
        (["a.mp4", "--encoder", "vrm-sum"], "Unknown encoder"),
        (["a.mp4", "--prompts", "nowhere.txt"], "cannot be read"),
        (["a.mp4", "--reward", "aesthetic"], "head"),
        (["a.mp4", "goal.alhpa=1"], "alhpa"),
        (["a.mp4", "--device", "gpu"], "gpu"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_sentence(tmp_path, arguments, words, capsys):
    prompt = [] if "--prompts" in arguments else ["--prompt", "x"]
    assert main(["score", *arguments, *prompt, "--out", str(tmp_path / "o"), "--no-cache", "--workers", "0"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "flag", [["--frames", "evenly:8"], ["--workers", "-1"], ["--shard", "3/2"], ["--batch-size=0"]]
)
def test_a_bad_flag_is_refused_by_name(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score", "a.mp4", "--out", "o", *flag])
    assert stop.value.code == 2
    assert flag[0].partition("=")[0] in capsys.readouterr().err

"""The command as a user types it."""

import numpy as np
import pytest

from vrm.agents.run import RunFolder
from vrm.cli import main
from vrm.configuration import build_task, compose, list_options
from vrm.envs import TASKS

TINY = [
    "agent.algorithm.learning_starts=40", "agent.algorithm.batch_size=16", "agent.algorithm.gradient_steps=1",
    "agent.algorithm.policy_kwargs.net_arch=[16]", "agent.n_envs=4", "task.episode_steps=20", "eval_episodes=2",
    "checkpoint_every=64", "agent.algorithm.buffer_size=400",
]  # fmt: skip
COMMANDS = ("train", "evaluate", "probe", "demo", "pretrain", "score", "report", "benchmark")


@pytest.mark.parametrize("group", ["task", "encoder", "reward", "agent"])
def test_unknown_option_lists_what_exists(group, capsys):
    assert main(["train", f"{group}=humanoid_kneelin"]) == 2
    message = capsys.readouterr().err
    assert f"Unknown {group} 'humanoid_kneelin'" in message
    assert list_options(group)[0] in message
    assert message.count("\n") == 1


def test_unknown_command_suggests_one(capsys):
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)


def test_probe_ranks_sentences(tmp_path, capsys):
    goals = ["a humanoid robot lying on the floor", "a humanoid robot kneeling"]
    arguments = [f"--goal={goal}" for goal in goals]
    assert main(["probe", "--task=humanoid_kneeling", "--states=300", f"--out={tmp_path}", *arguments]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert goals[1] in rows[1]
    assert float(rows[1].split()[0]) > 0.9
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_probe_of_unknown_task_is_one_sentence(capsys):
    assert main(["probe", "--task=humanoid_flying"]) == 2
    assert "Unknown task 'humanoid_flying'" in capsys.readouterr().err


def test_empty_goal_is_one_sentence(capsys):
    assert main(["probe", "--states=5", "--goal= "]) == 2
    assert "goal" in capsys.readouterr().err


def test_train_evaluate_and_resume(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TINY, "agent.total_steps=128", f"hydra.run.dir={run}"]) == 0
    assert "success rate" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--episodes=2", "--videos=0"]) == 0
    assert "over 2 episodes" in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "agent.total_steps=192"]) == 0
    assert RunFolder(run).checkpoints()[-1].name == "000000192"
    assert RunFolder(run).read_config()["agent"]["total_steps"] == 192


def test_sweep_trains_once_per_value(tmp_path):
    assert main(["train", "-m", *TINY, "agent.total_steps=64", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]) == 0
    seeds = {RunFolder(p.parent).read_config()["seed"] for p in tmp_path.glob("*/config.yaml")}
    assert seeds == {1, 2}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.goal=''", "goal"),
        ("task.goal='a humanoid robot'", "must differ"),
        ("task.control=telepathy", "Unknown control"),
    ],
)
def test_bad_settings_are_one_sentence(override, words, tmp_path, capsys):
    assert main(["train", *TINY, override, f"hydra.run.dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("folder", ["missing", "."])
def test_not_a_run_is_one_sentence(folder, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / folder)]) == 2
    assert "is not a run of vrm" in capsys.readouterr().err


def test_every_task_has_its_config():
    assert set(list_options("task")) == set(TASKS)
    for name, task in TASKS.items():
        built = build_task(compose("train", [f"task={name}"]))
        assert (built.goal, built.baseline, built.env_id) == (task.goal, task.baseline, task.env_id)


@pytest.mark.parametrize("agent", ["sac", "ppo", "td3", "dqn"])
def test_every_agent_composes(agent):
    config = compose("train", [f"agent={agent}"])
    assert np.isfinite(config["agent"]["total_steps"])
    assert config["agent"]["algorithm"]["_target_"].startswith("stable_baselines3.")


def test_a_saved_reward_needs_its_file(capsys):
    assert main(["train", "task=pendulum", "reward=saved"]) == 2
    assert "Missing mandatory value: path" in capsys.readouterr().err
    assert main(["train", "task=pendulum", "reward=nowhere.safetensors"]) == 2
    assert "No reward file at" in capsys.readouterr().err

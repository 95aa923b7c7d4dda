"""``vrm demo``: the three uses on one page, from a sentence to a humanoid that does what it says."""

from __future__ import annotations

import html
import time
from datetime import datetime
from pathlib import Path

from vrm.configuration import build_task, compose, evaluate_run, train_from_config
from vrm.encoders import load_encoder
from vrm.errors import CheckpointError

DEMO_STEPS = 80_000
SENTENCES = ("a humanoid robot kneeling", "a robot down on its knees in prayer", "a robot cheering with both hands up")


def demo(out: Path, steps: int | None = None, seed: int = 0, episodes: int = 20) -> float:
    """Probe sentences, train a humanoid on one, score the videos that come out; write a page about it.

    Args:
        out: folder; each demo gets a folder of its own in it.
        steps: environment steps, :data:`DEMO_STEPS` if omitted.
        seed: of training.
        episodes: evaluation episodes.

    Returns:
        The success rate: share of the last fifth of the evaluation steps in which the task's criterion holds.
    """
    from vrm.agents import probe

    started = time.monotonic()
    folder = out / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    overrides = [f"agent.total_steps={steps or DEMO_STEPS}", f"seed={seed}", "video_every=40000"]
    config = compose("train", ["task=humanoid_kneeling", *overrides])
    task, encoder = build_task(config), load_encoder("vrm-sim")

    print(f'1. Is the sentence a good reward?  task "{task.name}": {task.criterion}')
    findings = probe(task, encoder, SENTENCES, folder / "probe", size=config["size"])
    for finding in findings:
        print(f"   AUC {finding.auc:.3f}  EPIC {finding.epic:.3f}  {finding.goal}")

    print(f'2. Train on "{task.goal[0]}" alone: {config["agent"]["total_steps"]:,} steps')
    train_from_config(config, folder)

    print("3. Score what came out")
    played = evaluate_run(folder, episodes=episodes)
    rates = played.per_episode()
    each = " ".join(f"{rate:.2f}" for rate in rates)
    print(f"   success rate {played.success_rate:.2f} over {episodes} episodes; each: {each}")
    page = write_page(folder, task.goal[0], played.success_rate, [(f.goal, f.auc, f.epic) for f in findings])
    print(f"   {(time.monotonic() - started) / 60:.1f} minutes; curve, videos and pictures on one page: {page}")
    return played.success_rate


def write_page(folder: Path, goal: str, success_rate: float, findings: list[tuple[str, float, float]]) -> Path:
    """Lay the demo's pictures and videos out as one HTML page in ``folder``.

    Raises:
        CheckpointError: if ``folder`` holds no finished run.
    """
    if not (folder / "before_after.png").is_file():
        raise CheckpointError(f"{str(folder)!r} holds no finished run; train it first.")
    rows = "".join(
        f"<tr><td>{html.escape(text)}</td><td>{auc:.3f}</td><td>{epic:.3f}</td></tr>" for text, auc, epic in findings
    )
    probes = "".join(f'<img src="probe/{p.name}">' for p in sorted((folder / "probe").glob("*.png"))[:1])
    videos = "".join(
        f'<video src="videos/{p.name}" controls loop muted autoplay></video>'
        for p in sorted((folder / "videos").glob("evaluation_*.mp4"))
    )
    page = folder / "index.html"
    page.write_text(PAGE.format(goal=html.escape(goal), rate=success_rate, rows=rows, probes=probes, videos=videos))
    return page


PAGE = """<!doctype html>
<meta charset="utf-8"><title>vrm demo</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }}
 img, video {{ max-width: 100%; }} video {{ width: 48%; margin-right: 1%; }}
 td, th {{ padding: 0 1rem 0 0; text-align: left; }}
</style>
<h1>&ldquo;{goal}&rdquo;</h1>
<h2>1. Is the sentence a good reward?</h2>
<table><tr><th>sentence</th><th>AUC</th><th>EPIC distance</th></tr>{rows}</table>
{probes}
<h2>2. A humanoid trained on it</h2>
<img src="curve.png"><img src="before_after.png">
<h2>3. Its videos, scored</h2>
<p>Success rate {rate:.2f}: share of the last fifth of the steps in which the task's criterion holds.
The curve under each video is the sentence's reward, the bar is the criterion, which training never saw.</p>
{videos}
<img src="evaluation.png">
"""

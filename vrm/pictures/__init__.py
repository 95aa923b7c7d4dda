"""Results as pictures: learning curves, film strips, demonstrations, videos with their reward, probes and audits."""

from vrm.pictures.charts import learning_curve, probe_sheet
from vrm.pictures.film import film_strip, reward_curve_video
from vrm.pictures.steps import DemoRow, demo_sheet

__all__ = ["DemoRow", "demo_sheet", "film_strip", "learning_curve", "probe_sheet", "reward_curve_video"]

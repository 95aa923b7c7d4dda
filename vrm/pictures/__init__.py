"""Results as pictures: learning curves, film strips, videos with their reward, and the probe of a sentence."""

from vrm.pictures.charts import learning_curve, probe_sheet
from vrm.pictures.film import film_strip, reward_curve_video

__all__ = ["film_strip", "learning_curve", "probe_sheet", "reward_curve_video"]

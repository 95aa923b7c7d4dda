"""Fine-tune a video generator on rewards, with a guard against reward hacking."""

from vrm.diffusion.finetune.guard import Guard as Guard
from vrm.diffusion.finetune.prompts import Prompts as Prompts
from vrm.diffusion.finetune.run import Rewards as Rewards
from vrm.diffusion.finetune.run import finetune as finetune
from vrm.diffusion.finetune.settings import FinetuneSettings as FinetuneSettings
from vrm.diffusion.finetune.settings import GuardSettings as GuardSettings
from vrm.diffusion.finetune.tuned import load_tuned as load_tuned

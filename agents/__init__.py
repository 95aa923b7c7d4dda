"""Training and evaluating agents on text-goal tasks."""

if __name__ == "agents":
    raise ImportError("Import vrm.agents, not agents: the folder is only a source location.")

from vrm.agents.evaluate import evaluate as evaluate
from vrm.agents.probe import probe as probe
from vrm.agents.train import train as train

"""placeholder."""

if __name__ == "agents":
    raise ImportError("Import vrm.agents, not agents: the folder is only a source location.")

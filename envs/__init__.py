"""placeholder."""

if __name__ == "envs":
    raise ImportError("Import vrm.envs, not envs: the folder is only a source location.")

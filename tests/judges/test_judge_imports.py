"""Backends come with optional packages, which nothing else needs."""

import subprocess
import sys
import textwrap

SCRIPT = """
    import sys
    import vrm.judges, vrm.rewards.judge
    print({"httpx", "vrm.judges.hf", "vrm.judges.http"} & set(sys.modules))
    sys.modules["httpx"] = sys.modules["transformers"] = None
    for name in ("HTTPJudge", "HFJudge"):
        try:
            getattr(vrm.judges, name)
        except vrm.errors.MissingExtraError as error:
            print(error)
"""


def test_judges_are_imported_without_their_backends_and_a_missing_package_is_named():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, check=False)
    loaded, http, hf = done.stdout.splitlines()
    assert loaded == "set()"
    assert http.startswith("A judge behind HTTP needs httpx")
    assert "pip install 'vrm[judge]'" in http
    assert hf.startswith("A judge of transformers needs transformers")
    assert "pip install 'vrm[hf]'" in hf

"""Many more ways to say what captioners say, kept beside them as yaml: what makes a text tower used to other people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vrm.envs.captions import Captioner

State = TypeVar("State")
FOLDER = Path(__file__).parent / "caption_phrases"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


def worded(captioner: Captioner[State], family: str) -> Captioner[State]:
    """The captioner with the subjects, phrases and details of ``caption_phrases/FAMILY.yaml`` behind its own.

    The file holds ``subjects``, a list, and ``facts``: for every fact, by name, lists of ``phrases`` and ``details``.
    Without a file the captioner stays as it is.

    Raises:
        ValueError: if the file speaks of facts that the captioner does not know.
    """
    path = FOLDER / f"{family}.yaml"
    if not path.is_file():
        return captioner
    written = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    facts: dict[str, Any] = written["facts"]
    unknown = facts.keys() - {fact.name for fact in captioner.facts}
    if unknown:
        raise ValueError(f"{path.name} has phrases for {sorted(unknown)}, which are no facts of {family!r}.")
    return replace(
        captioner,
        subjects=(*captioner.subjects, *written["subjects"]),
        facts=tuple(
            replace(
                fact,
                phrases=(*fact.phrases, *facts.get(fact.name, {}).get("phrases", ())),
                details=(*fact.details, *facts.get(fact.name, {}).get("details", ())),
            )
            for fact in captioner.facts
        ),
    )

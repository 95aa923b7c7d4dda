"""Is a reward fit to train with? A battery of checks on clips, before any training."""

from vrm.audit.battery import audit as audit
from vrm.audit.evidence import Evidence as Evidence
from vrm.audit.items import Audit as Audit
from vrm.audit.items import Item as Item
from vrm.audit.items import Verdict as Verdict

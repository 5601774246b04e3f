"""The digest of what an attempt runs: when it differs from the order's, a new attempt is due."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FIELDS = ("template", "gpu", "restartPolicy")
"""What a running pod can't be given afterwards. Everything else of the spec is in force without a new attempt."""


def spec_digest(spec: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits; equal for specs that make the same pod and claim, whatever the order of their fields."""
    relevant = {field: spec.get(field) for field in FIELDS}
    relevant["restartPolicy"] = relevant["restartPolicy"] or "Always"
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]

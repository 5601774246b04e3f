"""What the supervisor runs: the contract between who plans a cluster and who runs it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Component:
    """One program of the cluster and what it waits for before each start."""

    name: str
    argv: tuple[str, ...]
    after_api: bool = False
    """Start when the API server says that it is ready. Most components end when they can't reach it."""
    after_path: str | None = None
    """Start when this path exists inside the cluster."""
    after_step: str | None = None
    """Start when this component, which must be a step, has ended well."""
    is_step: bool = False
    """Runs once until it ends with 0, instead of for ever."""


@dataclass(frozen=True)
class Plan:
    """Everything that launcher and supervisor need to know, in one file."""

    identity: str
    hostname: str
    link: str
    subnet: str
    api_url: str
    certificate_authority: str
    client_certificate: str
    client_key: str
    state: str
    """The state directory, which stays the same one inside the cluster's mounts."""
    private: str
    """Directory for what the cluster writes to the host's directories that it sees as its own."""
    binds: dict[str, str]
    """Directories of the cluster's node, and the directories of this cluster's state that they are."""
    logs: str
    control: str
    holder: str
    environment: dict[str, str]
    """The whole environment of every component."""
    components: tuple[Component, ...]

    def write(self, path: Path) -> None:
        """Replace `path` with this plan in one step."""
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan in `path`."""
        content: dict[str, Any] = json.loads(path.read_text())
        components = tuple(Component(**{**each, "argv": tuple(each["argv"])}) for each in content.pop("components"))
        return cls(components=components, **content)

"""How the supervisor starts programs of our own: with the sources that we ourselves run from."""

import sys
from pathlib import Path
from types import ModuleType

import aios_api
import aios_kube
import aios_sidecar


def argv(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs `module` of this package with `arguments`."""
    packages: tuple[ModuleType, ...] = (aios_api, aios_kube, aios_sidecar)
    sources = [Path(__file__).parents[1], *(Path(str(package.__file__)).parents[1] for package in packages)]
    path = ":".join(str(source.resolve()) for source in sources)
    return ("/usr/bin/env", f"PYTHONPATH={path}", sys.executable, "-m", f"aios_localcluster.{module}", *arguments)

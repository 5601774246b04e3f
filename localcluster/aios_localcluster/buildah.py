"""buildah with a storage of our own: nothing else on the machine sees what is built here, and no mount outlives a command."""

import os
import shutil
import subprocess
from pathlib import Path

from aios_localcluster.errors import CannotRunHere


class MissingProgram(CannotRunHere):
    """A program of the operating system that must be installed first; the message says how."""


def require(program: str, package: str) -> None:
    """Raises MissingProgram when `program` is not on the PATH."""
    if shutil.which(program) is None:
        raise MissingProgram(f"{program} is missing: apt-get install {package}")


def run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What the command wrote. Raises subprocess.CalledProcessError with its words, also those of standard output, in `stderr`."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}".strip()[-8000:]
        raise subprocess.CalledProcessError(done.returncode, [str(part) for part in command], done.stdout, said)
    return done.stdout


class Buildah:
    """Commands of buildah on the storage below `directory`."""

    def __init__(self, directory: Path) -> None:
        require("buildah", "buildah")
        self._directory = directory
        self._driver = self._choose_driver()

    def __call__(self, *arguments: str | Path) -> str:
        return run(*self._prefix(self._driver), *arguments, environment={"BUILDAH_ISOLATION": "chroot"})

    def has(self, image: str) -> bool:
        """Whether the storage holds the image under this name."""
        return bool(self("images", "--quiet", "--filter", f"reference={image}").strip())

    def _prefix(self, driver: str) -> list[str | Path]:
        # A private mount namespace: with overlay, containers/storage leaves its directory mounted on itself.
        storage = self._directory / driver
        private = ["unshare", "--mount", "--propagation", "private"]
        return [*private, "buildah", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", driver]

    def _choose_driver(self) -> str:
        """overlay where the kernel and the file system allow it; else vfs, which copies every layer and is slower."""
        chosen = self._directory / "driver"
        if chosen.exists():
            return chosen.read_text().strip()
        driver = "overlay" if self._overlay_works() else "vfs"
        self._directory.mkdir(parents=True, exist_ok=True)
        chosen.write_text(driver)
        return driver

    def _overlay_works(self) -> bool:
        try:
            prefix = self._prefix("overlay")
            container = run(*prefix, "from", "scratch").strip()
            run(*prefix, "mount", container)
            run(*prefix, "rm", container)
        except subprocess.CalledProcessError:
            return False
        return True

"""Everything that has to be there before the first cluster: `python -m aios_localcluster.prepare`; with `--for-tests` also what tests use.

Debian packages, the cluster's programs, our native programs, images; each only where it is missing. Exits with 0 when all is there, with 3
when this machine can't run the cluster (the reason is printed), with 1 when something could not be made.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from aios_localcluster import build, host
from aios_localcluster.errors import CannotRunHere, LocalClusterError
from aios_localcluster.imagebuild import build_images

ROOT = Path(__file__).resolve().parents[2]
CANNOT_RUN_HERE = 3


def prepare(for_tests: bool) -> None:
    """Make what is missing. Raises CannotRunHere, LocalClusterError, or CalledProcessError."""
    host.install_missing(packages=host.NODE_PACKAGES + host.IMAGE_PACKAGES + (host.TEST_PACKAGES if for_tests else ()))
    if reason := host.why_not():
        raise CannotRunHere(reason)
    build.build_all(build.default_cache(os.environ))
    subprocess.run(["make", "--no-print-directory", "-C", str(ROOT / "sidecar" / "native")], check=True)
    build_images(print)


def main() -> int:
    """Prepare, and say how long it took."""
    parser = argparse.ArgumentParser(prog="prepare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--for-tests", action="store_true", help="install programs that only tests use, too")
    given = parser.parse_args()
    began = time.monotonic()
    try:
        prepare(given.for_tests)
    except CannotRunHere as problem:
        print(f"this machine can't run the local cluster: {problem}", file=sys.stderr)
        return CANNOT_RUN_HERE
    except (LocalClusterError, subprocess.CalledProcessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"everything is there after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes a bare CUDA context on one GPU, prints what it takes as the driver accounts it to this process, and ends.

    python -m aios_sidecar.vram.probe UUID

A process of its own, so that the context ends with it, and a driver that hangs takes nobody along. One line of JSON: `{"bytes": 1}` or
`{"error": "why not"}`.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import pynvml

from aios_sidecar.vram.driver import Driver

LIBRARY: Final = "libcuda.so.1"
NAMED_SECONDS: Final = 3.0
"""How long the driver may take to name this process; it does so within a second."""
STEP_SECONDS: Final = 0.05


class NoContext(Exception):
    """A context can't be made, or not be measured; the message says why."""


def make_context(library: Any) -> None:
    """This process has the primary context of the one GPU that it sees. Raises NoContext."""
    context, device = ctypes.c_void_p(), ctypes.c_int()
    _require(library, "cuInit", library.cuInit(0))
    _require(library, "cuDeviceGet", library.cuDeviceGet(ctypes.byref(device), 0))
    _require(library, "cuDevicePrimaryCtxRetain", library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))


def _require(library: Any, call: str, code: int) -> None:
    if code == 0:
        return
    name = ctypes.c_char_p()
    known = library.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value is not None
    raise NoContext(f"{call} says {name.value.decode() if known and name.value else f'error {code}'}")


def own_use(read: Callable[[], dict[int, int | None]], pid: int, clock_seconds: Callable[[], float], pause: Callable[[], None]) -> int:
    """The bytes that the driver accounts to process `pid`, once two readings agree. Raises NoContext."""
    until, before = clock_seconds() + NAMED_SECONDS, None
    while clock_seconds() < until:
        now = read().get(pid)
        if now and now == before:
            return now
        before = now
        pause()
    raise NoContext("the driver does not name this process" if before is None else "what the driver says of this process does not settle")


def main(arguments: list[str]) -> int:
    (uuid,) = arguments
    try:
        make_context(ctypes.CDLL(LIBRARY))
        driver = Driver(uuid)
        found: dict[str, object] = {
            "bytes": own_use(lambda: driver.read()[2], os.getpid(), time.monotonic, lambda: time.sleep(STEP_SECONDS))
        }
    except OSError as error:
        found = {"error": f"{LIBRARY} can't be loaded: {error}"}
    except AttributeError as error:
        found = {"error": f"{LIBRARY} is not the driver's: {error}"}
    except pynvml.NVMLError as error:
        found = {"error": f"the driver gives no answer: {error}"}
    except NoContext as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A port for a program that is started beside this one."""

import contextlib
import random
import socket
from pathlib import Path


def free_port() -> int:
    """One that the kernel gives to nobody who connects: between this answer and the program's start no connection takes it, a program
    that comes back finds it free, and who asks for one that is away does not reach himself."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(max(first, 20_000) - 10_000, max(first, 20_000)), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port of the loopback is free")

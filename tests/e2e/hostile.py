"""A hostile program: what it tries from inside an Agent's pod, as code that prints one JSON object. TARGETS is replaced by a dict."""

PROGRAM = r"""
import ctypes, errno, http.client, json, os, socket, struct
targets = TARGETS
libc = ctypes.CDLL(None, use_errno=True)

def outcome(attempt, *arguments):
    try:
        attempt(*arguments)
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def kernel(name, *arguments):
    # The number of the call on x86-64, and on 64-bit ARM.
    numbers = {"unshare": (272, 97), "mount": (165, 40), "bpf": (321, 280), "io_uring_setup": (425, 425),
        "keyctl": (250, 219), "perf_event_open": (298, 241), "init_module": (175, 105), "open_by_handle_at": (304, 265),
        "setns": (308, 268), "reboot": (169, 142)}
    if libc.syscall(numbers[name][os.uname().machine == "aarch64"], *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def netlink(family, kind):
    # Whatever asks netfilter, or changes a link: the kernel answers with an error.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as s:
        body = struct.pack("=BBH", 0, 0, 0) if family == 12 else struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)
        s.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
        number = struct.unpack_from("=i", s.recv(4096), 16)[0]
        if number:
            raise OSError(-number, "netlink")

def write(path):
    with open(path, "w") as file:
        file.write("1")

def reach(host, port):
    socket.create_connection((host, port), timeout=3).close()

def ask(text):
    with socket.create_connection(("127.0.0.1", 2489), timeout=20) as s:
        try:
            s.sendall(text)
        except OSError:
            pass  # answered before it was read to its end
        try:
            answer = http.client.HTTPResponse(s)
            answer.begin()
            return f"{answer.status} {json.loads(answer.read()).get('reason', 'accepted')}"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))

NEWUSER_NEWNET, BSD = 0x50000000, b"Host: 127.0.0.1:2489\r\n"
kernel_calls = {
    "user namespace": outcome(kernel, "unshare", NEWUSER_NEWNET),
    "mount": outcome(kernel, "mount", b"none", b"/tmp", b"tmpfs", 0, 0),
    "another namespace": outcome(kernel, "setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0),
    "bpf": outcome(kernel, "bpf", 0, 0, 0),
    "io_uring": outcome(kernel, "io_uring_setup", 1, 0),
    "keys": outcome(kernel, "keyctl", 0, -3, 1),
    "perf": outcome(kernel, "perf_event_open", 0, 0, -1, -1, 0),
    "module": outcome(kernel, "init_module", 0, 0, b""),
    "file handle": outcome(kernel, "open_by_handle_at", -100, 0, 0),
    "reboot": outcome(kernel, "reboot", 0, 0, 0, 0),
    "packets": outcome(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "raw": outcome(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "machine": outcome(socket.socket, 40, socket.SOCK_STREAM),
    "express": outcome(socket.socket, 44, socket.SOCK_RAW),
    "netfilter": outcome(netlink, 12, 10 << 8 | 1),
    "link down": outcome(netlink, 0, 16),
}
files = {path: outcome(write, path) for path in ("/tmp/x", "/run/aios/x", "/run/aios/agent.sock", "/proc/sysrq-trigger",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/x", "/sys/kernel/uevent_helper")}
found = [path for path in ("/var/run/secrets/kubernetes.io", "/run/aios/gateway", "/run/aios/hook.sock", "/var/lib/aios", "/dev/mem",
    "/run/containerd", "/var/lib/kubelet", "/dev/nvidiactl") if os.path.exists(path)]
unix = sorted({line.split()[7] for line in open("/proc/net/unix").readlines()[1:] if len(line.split()) > 7})
network = {name: outcome(reach, *where) for name, where in {**targets, "its own endpoint": ("127.0.0.1", 2489)}.items()}
gateway = {
    "itself": ask(b"GET /v1/agent HTTP/1.1\r\n" + BSD + b"\r\n"),
    "another's context": ask(b"GET /v1/context/items?agent=keeper HTTP/1.1\r\n" + BSD + b"\r\n"),
    "a foreign host": ask(b"GET /v1/agent HTTP/1.1\r\nHost: aios.example.com\r\n\r\n"),
    "a browser": ask(b"GET /v1/agent HTTP/1.1\r\n" + BSD + b"Origin: http://127.0.0.1:2489\r\n\r\n"),
    "another path": ask(b"GET /v1/agent/../../metrics HTTP/1.1\r\n" + BSD + b"\r\n"),
    "two lengths": ask(b"POST /v1/context/append HTTP/1.1\r\n" + BSD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a large head": ask(b"GET /v1/agent HTTP/1.1\r\n" + BSD + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n"),
    "metadata": ask(b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"),
    **{name: ask(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()) for name, (host, port) in targets.items()},
}
def pretending(path):
    call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=20)
    call.request("GET", path, headers={"X-Agent": "keeper", "Forwarded": "for=keeper", "Authorization": "Bearer keeper"})
    return call.getresponse().read().decode()

status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print(json.dumps({"kernel": kernel_calls, "files": files, "found": found, "unix": unix, "network": network, "gateway": gateway,
    "name": json.loads(pretending("/v1/agent"))["identity"]["name"], "context": pretending("/v1/context/items"),
    "held": {field: status[field] for field in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}}))
"""

UNKNOWN = {"machine": {"EAFNOSUPPORT"}, "express": {"EAFNOSUPPORT"}, "io_uring": {"ENOSYS"}, "keys": {"ENOSYS"}}
"""Of these a kernel may know nothing. All else in it is not permitted: a capability is lacking, or the seccomp profile says so."""

FILES = {
    "/tmp/x": {"done"},
    "/run/aios/x": {"EROFS"},
    "/run/aios/agent.sock": {"ENXIO"},
    "/proc/sysrq-trigger": {"EROFS", "ENOENT"},
    "/proc/sys/net/ipv4/ip_forward": {"EROFS"},
    "/proc/sys/kernel/core_pattern": {"EROFS"},
    "/sys/fs/cgroup/x": {"EROFS", "EACCES"},
    "/sys/kernel/uevent_helper": {"EROFS", "ENOENT"},
}
"""What says no to who writes there: mounts that are read-only, a socket that is no file, what this kernel does not have."""

GATEWAY = {
    "itself": "200 accepted",
    "another's context": "400 InvalidRequest",
    "a foreign host": "403 ForeignHost",
    "a browser": "403 BrowserOrigin",
    "another path": "404 NotFound",
    "two lengths": "400 Malformed",
    "a large head": "431 HeadersTooLarge",
}
"""With the reason that is in the problem (RFC 9457)."""

READ = """
import http.client
call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=20)
call.request("GET", "/v1/context/items")
print(call.getresponse().read().decode())
"""

FLOOD = r"""
import collections, errno, json, selectors, socket, time
counts, held = collections.Counter(), []
for number in range(10_000):
    s = socket.socket()
    s.settimeout(10)
    try:
        s.connect(("127.0.0.1", 2489))
        counts["connected"] += 1
        held.append(s)
    except OSError as error:
        counts[errno.errorcode.get(error.errno, str(error))] += 1
    if len(held) > 500:
        held.pop(0).close()
print(json.dumps(counts))
"""
"""Ten thousand connections that say nothing, five hundred of them open at once."""

ASKING = r"""
import collections, http.client, json
statuses = collections.Counter()
for number in range(200):
    call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=60)
    call.request("GET", "/v1/agent")
    statuses[str(call.getresponse().status)] += 1
    call.close()
print(json.dumps(statuses))
"""
"""Two hundred questions, a connection for each."""

GREED = r"""
import collections, http.client, json, os, urllib.parse
url = urllib.parse.urlsplit(os.environ["AIOS_URL"])
answers = collections.Counter()
def append(items):
    call = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        call.request("POST", "/v1/context/items", json.dumps({"items": items}))
        answers[str(call.getresponse().status)] += 1
    except OSError as error:
        answers[type(error).__name__] += 1
    finally:
        call.close()
for number in range(40):
    append([{"role": "user", "content": f"{number} " + "x" * 4000}] * 50)
append([{"role": "user", "content": "y" * (1 << 20)}])
append([{"role": "user", "content": "z" * (64 << 20)}])
print(json.dumps(answers))
"""
"""Eight megabytes in items of four kilobytes, one of a megabyte, and one of 64."""

LAST_WORDS = """
import os, signal, time
open("/dev/termination-log", "w").write("w" * (1 << 20))
print("p" * (1 << 20))
os._exit(3)
"""
"""A megabyte of last words, in both places where people look for them."""

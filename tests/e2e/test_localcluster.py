"""The local cluster itself: it comes up, runs pods, survives kills of its parts, and leaves nothing, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_localcluster import API_ONLY, ClusterSettings, LocalCluster, LocalClusterError, cgroups, host, images, kernel, network
from aios_localcluster.kubeaios import kubectl
from aios_localcluster.supervisor import KUBELET_WANTS
from e2e.support import eventually

pytestmark = pytest.mark.skipif(host.why_not() is not None, reason=f"the local cluster can't run here: {host.why_not()}")

WATCHED_FOLDERS = ("/etc", "/etc/cni", "/etc/cni/net.d", "/etc/cdi", "/opt", "/run", "/run/netns", "/var/lib", "/var/lib/cni", "/var/log")

SHELL_POD = """
apiVersion: v1
kind: Pod
metadata: {name: shell, labels: {app: shell}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: shell
    image: localhost/kubeaios/pause:1
    command: [/bin/bash, -c, "echo hello from the pod; sleep 100000"]
    volumeMounts:  # the sandbox image has no shell: the host's is mounted
    - {name: usr, mountPath: /usr, readOnly: true}
    - {name: usr, mountPath: /bin, subPath: bin, readOnly: true}
    - {name: usr, mountPath: /lib, subPath: lib, readOnly: true}
    - {name: usr, mountPath: /lib64, subPath: lib64, readOnly: true}
    - {name: left, mountPath: /left}
  volumes:
  - {name: usr, hostPath: {path: /usr}}
  - {name: left, hostPath: {path: /var/lib/left-by-a-pod, type: DirectoryOrCreate}}
"""


def names_in(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()


def traces(cluster: LocalCluster) -> dict[str, set[str]]:
    """What the machine has that a cluster could leave. Other local clusters, which may come and go meanwhile, are left out."""
    layout = cluster.layout
    links = {name for name in names_in("/sys/class/net") if name == layout.link or not re.fullmatch(r"ka[0-9a-f]{8}", name)}
    routes = json.loads(network.ip("-json", "route", "show", "table", "all"))
    groups = set()
    for each in cgroups.of_this_machine():
        groups |= {f"{each.mounted_at}/{name}" for name in names_in(each.mounted_at) if name != cgroups.GROUP}
        groups |= {str(path) for path in (each.mounted_at / cgroups.GROUP).glob(f"{layout.identity}*")}
    return {
        "processes": set(processes_of(cluster)),
        "mounts": {" ".join(line.split()[3:5]) for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "links": links,
        "routes": {json.dumps(route) for route in routes if route.get("dev") in links},
        "nftables": set(subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout.splitlines()),
        "cgroups": groups,
        "sysctls": {f"{key}={(Path('/proc/sys') / key).read_text()}" for key in (*KUBELET_WANTS, "net/ipv4/ip_forward")},
        "files": {f"{folder}/{name}" for folder in WATCHED_FOLDERS for name in names_in(folder)} - {str(cluster.settings.state_root)},
        "state": {str(path) for path in cluster.settings.state_root.glob(cluster.settings.name)},
    }


def left_behind(cluster: LocalCluster, before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What there is now and was not `before`."""
    return {kind: new for kind, now in traces(cluster).items() if (new := now - before[kind])}


def processes_of(cluster: LocalCluster) -> list[str]:
    """Every process in the cluster's cgroups or with its state directory in the command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if kernel.start_time(int(folder.name)) is None:
            continue  # it has ended, and waits for the machine's init to take note
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            group = (folder / "cgroup").read_text()
        except OSError:
            continue
        if f"{cluster.layout.root}/" in command or cluster.layout.identity in group:
            found.append(f"{folder.name} {command}")
    return found


def namespaces_of(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid_for_children")}


def holds_a_namespace(namespaces: set[str]) -> list[str]:
    """The processes that are still in one of `namespaces`."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            if kernel.start_time(int(link.parts[2])) is not None and str(link.readlink()) in namespaces:
                found.append(str(link))
        except OSError:
            continue
    return found


def holder_of(cluster: LocalCluster) -> int:
    return int(json.loads(cluster.layout.holder.read_text())["pid"])


def supervisor_of(cluster: LocalCluster) -> int:
    """The host's id of the first process of the cluster's PID namespace."""
    children = subprocess.run(["ps", "--ppid", str(holder_of(cluster)), "-o", "pid="], capture_output=True, text=True, check=True)
    return int(children.stdout)


def aiosctl(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from aios_cli.main import main; main()", "local", *arguments]


def state(cluster: LocalCluster, component: str) -> dict[str, object]:
    return next(each for each in cluster.status() if each["name"] == component)


def starts(cluster: LocalCluster, component: str) -> int:
    """How often it was started."""
    return int(str(state(cluster, component)["starts"]))


def run_shell_pod(cluster: LocalCluster) -> None:
    kubectl(cluster, "apply", "-f", "-", stdin=SHELL_POD)
    kubectl(cluster, "wait", "--for=condition=Ready", "--timeout=60s", "pod/shell")


def exec_works(cluster: LocalCluster) -> bool:
    try:
        return "hello" in kubectl(cluster, "exec", "shell", "--", "/bin/bash", "-c", "echo hello")
    except subprocess.CalledProcessError:
        return False


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    cluster = LocalCluster(name="lc-test")
    cluster.down()
    return traces(cluster)


@pytest.fixture(scope="module")
def cluster(before: dict[str, set[str]]) -> Iterator[LocalCluster]:
    with LocalCluster(name="lc-test") as running:
        yield running


def test_up_again_starts_nothing(cluster: LocalCluster):
    running = [(each["name"], each["pid"]) for each in cluster.status()]
    cluster.up()
    assert [(each["name"], each["pid"]) for each in cluster.status()] == running


def test_the_node_is_ready_and_runs_a_pod_with_logs_and_exec(cluster: LocalCluster):
    assert "Ready" in kubectl(cluster, "get", "nodes", "--no-headers").split()
    run_shell_pod(cluster)
    eventually(lambda: "hello from the pod" in kubectl(cluster, "logs", "shell"), "the log has the pod's line")
    assert kubectl(cluster, "exec", "shell", "--", "cat", "/proc/sys/kernel/hostname").strip() == "shell"


def test_pods_reach_the_api_through_its_service(cluster: LocalCluster):
    run_shell_pod(cluster)
    connect = "exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT && echo connected to $KUBERNETES_SERVICE_HOST"
    said = kubectl(cluster, "exec", "shell", "--", "/bin/bash", "-c", connect)
    assert said.strip() == f"connected to {cluster.network.api_service}"


def test_a_node_may_not_write_to_another_node(cluster: LocalCluster):
    own = ["--kubeconfig", str(cluster.layout.configuration / "kubelet.kubeconfig")]
    done = subprocess.run(
        [cluster.kubectl_path, *own, "create", "-f", "-"], input='{"apiVersion":"v1","kind":"Node","metadata":{"name":"other"}}',
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "is not allowed" in done.stderr


def test_an_imported_archive_is_an_image_that_pods_can_use(cluster: LocalCluster, tmp_path: Path):
    archive = tmp_path / "image.tar"
    archive.write_bytes(images.single_program_archive(cluster.programs.pause / "pause", "localhost/test/imported:1", os.uname().machine))
    assert images.import_archive(cluster, archive) == ["localhost/test/imported:1"]
    kubectl(cluster, "run", "imported", "--image=localhost/test/imported:1", "--image-pull-policy=Never")
    kubectl(cluster, "wait", "--for=condition=Ready", "--timeout=60s", "pod/imported")


def test_what_is_no_image_is_refused_with_what_must_be_true(cluster: LocalCluster, tmp_path: Path):
    (tmp_path / "image.tar").write_text("no archive")
    with pytest.raises(LocalClusterError, match="must be a docker or OCI archive"):
        images.import_archive(cluster, tmp_path / "image.tar")


@pytest.mark.parametrize("component", ["kubelet", "containerd", "kube-apiserver"])
def test_a_killed_component_comes_back_and_pods_go_on(cluster: LocalCluster, component: str):
    run_shell_pod(cluster)
    first = starts(cluster, component)
    cluster.kill(component)
    eventually(lambda: starts(cluster, component) > first, f"{component} was started again")
    cluster.up()
    eventually(lambda: exec_works(cluster), "exec works")
    restarts = kubectl(cluster, "get", "pod", "shell", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
    assert restarts == "0"


def test_a_stopped_component_stays_stopped_until_it_is_started(cluster: LocalCluster):
    cluster.stop("kube-scheduler")
    eventually(lambda: state(cluster, "kube-scheduler")["state"] == "stopped", "the scheduler is stopped")
    before = starts(cluster, "kube-controller-manager")
    cluster.kill("kube-controller-manager")
    eventually(lambda: starts(cluster, "kube-controller-manager") > before, "the supervisor starts what has ended meanwhile")
    assert state(cluster, "kube-scheduler")["state"] == "stopped"
    cluster.start("kube-scheduler")
    eventually(lambda: state(cluster, "kube-scheduler")["state"] == "running", "the scheduler runs")


def test_an_unknown_component_is_refused_by_name(cluster: LocalCluster):
    with pytest.raises(LocalClusterError, match="no component kubelett; there are etcd"):
        cluster.restart("kubelett")


def test_two_clusters_run_side_by_side(cluster: LocalCluster, tmp_path: Path):
    deep = tmp_path / ("d" * 100)  # longer than the address of a Unix socket may be
    other = LocalCluster(ClusterSettings(name="lc-test", state_root=deep, components=API_ONLY))
    clean = traces(other)
    with other:
        assert other.network.subnet != cluster.network.subnet
        assert kubectl(other, "get", "nodes") == ""
        assert "lc-test-node" in kubectl(cluster, "get", "nodes")
        with pytest.raises(LocalClusterError, match="runs without kube-scheduler"):
            LocalCluster(ClusterSettings(name="lc-test", state_root=deep)).up()
    assert left_behind(other, clean) == {}


def test_down_leaves_nothing(cluster: LocalCluster, before: dict[str, set[str]]):
    run_shell_pod(cluster)
    namespaces = namespaces_of(holder_of(cluster))
    cluster.down()
    assert left_behind(cluster, before) == {}
    assert holds_a_namespace(namespaces) == []
    cluster.down()
    assert left_behind(cluster, before) == {}


def test_a_killed_supervisor_ends_all_and_the_next_up_finds_its_objects(before: dict[str, set[str]]):
    cluster = LocalCluster(name="lc-test")
    with cluster:
        run_shell_pod(cluster)
        os.kill(supervisor_of(cluster), signal.SIGKILL)
        eventually(lambda: not processes_of(cluster), "the kernel ended every process")
        eventually(lambda: not Path(f"/sys/class/net/{cluster.layout.link}").exists(), "the kernel removed the link")
        assert traces(cluster)["mounts"] == before["mounts"]
        cluster.up()
        run_shell_pod(cluster)
        assert kubectl(cluster, "get", "pod", "shell", "-o", "jsonpath={.metadata.labels.app}") == "shell"
    assert left_behind(cluster, before) == {}


def test_down_after_a_killed_holder_leaves_nothing(before: dict[str, set[str]]):
    cluster = LocalCluster(name="lc-test")
    cluster.up()
    run_shell_pod(cluster)
    namespaces = namespaces_of(holder_of(cluster))
    os.kill(holder_of(cluster), signal.SIGKILL)
    cluster.down()
    assert left_behind(cluster, before) == {}
    assert holds_a_namespace(namespaces) == []


@pytest.mark.parametrize("delay_seconds", [0.3, 0.6, 0.8, 1.0, 1.5, 4.0])
def test_an_up_that_is_killed_in_the_middle_leaves_what_down_removes(before: dict[str, set[str]], delay_seconds: float):
    cluster = LocalCluster(name="lc-test")
    starting = subprocess.Popen(aiosctl("--name", "lc-test", "up"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay_seconds)
    starting.kill()
    starting.wait()
    done = subprocess.run(aiosctl("--name", "lc-test", "down"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left_behind(cluster, before) == {}


def test_up_and_down_keep_away_from_a_directory_that_is_not_theirs(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    stranger = LocalCluster(ClusterSettings(name="mine", state_root=tmp_path, components=API_ONLY))
    with pytest.raises(LocalClusterError, match="must be empty"):
        stranger.up()
    with pytest.raises(LocalClusterError, match="must be the directory of a local cluster"):
        stranger.down()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_command_line_says_what_runs(cluster_for_commands: LocalCluster):
    name = cluster_for_commands.settings.name

    def said(*arguments: str) -> str:
        return subprocess.run(aiosctl("--name", name, *arguments), capture_output=True, text=True, check=True).stdout

    assert re.search(r"kube-apiserver +running", said("status"))
    assert said("kubeconfig").strip() == str(cluster_for_commands.kubeconfig)
    assert "client-certificate-data" in said("kubeconfig", "--print")
    assert len(said("logs", "etcd", "--tail", "3").splitlines()) == 3


@pytest.fixture
def cluster_for_commands() -> Iterator[LocalCluster]:
    with LocalCluster(ClusterSettings(name="lc-commands", components=API_ONLY)) as running:
        yield running

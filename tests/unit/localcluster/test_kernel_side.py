"""What is read from the kernel, and what is chosen from it."""

import json
import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from aios_localcluster import cgroups, kernel, locks, network
from aios_localcluster.errors import LocalClusterError

V1_AND_V2 = """\
25 1 0:22 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/systemd rw,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime shared:12 - cgroup2 cgroup2 rw,nsdelegate
29 25 0:23 / /mnt/again rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_every_hierarchy_is_found_once_with_the_options_that_mount_it():
    found = [(str(each.mounted_at), each.kind, each.options) for each in cgroups.hierarchies(V1_AND_V2)]
    assert found == [
        ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
        ("/sys/fs/cgroup/systemd", "cgroup", "name=systemd"),
        ("/sys/fs/cgroup/unified", "cgroup2", ""),
    ]


def test_a_machine_with_v2_only_has_one_hierarchy():
    assert [(str(each.mounted_at), each.kind) for each in cgroups.hierarchies(V2)] == [("/sys/fs/cgroup", "cgroup2")]


def test_v2_says_its_controllers_itself(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert cgroups.Hierarchy(tmp_path, "cgroup2", "").controllers >= cgroups.NEEDED


def test_a_process_is_known_by_its_start_and_no_process_has_none():
    assert kernel.start_time(os.getpid()) is not None
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert kernel.start_time(child) is None, "a zombie does not run"
    os.waitpid(child, 0)
    assert kernel.start_time(child) is None


def test_the_name_of_a_process_may_contain_anything(tmp_path: Path):
    (tmp_path / "7").mkdir()
    fields = ["S", *map(str, range(4, 53))]
    (tmp_path / "7" / "stat").write_text(f"7 (odd ) name (S) {' '.join(fields)}\n")
    assert kernel.start_time(7, tmp_path) == 22


def test_a_cluster_gets_the_same_network_again_and_none_that_is_taken():
    first = network.choose("a", None, [])
    assert network.choose("a", None, []) == first
    assert network.choose("a", None, [first.subnet]) != first
    assert network.choose("a", None, [IPv4Network(f"{first.subnet[300]}/32")]) != first


def test_parts_of_a_network_do_not_overlap():
    chosen = network.choose("a", None, [])
    ranges = [IPv4Network(f"{chosen.host}/30", strict=False), chosen.pods, chosen.services]
    assert all(each.subnet_of(chosen.subnet) for each in ranges)
    assert not any(one.overlaps(other) for one in ranges for other in ranges if one is not other)
    assert chosen.api_service in chosen.services


def test_a_wanted_network_that_is_taken_is_refused_by_name():
    with pytest.raises(LocalClusterError, match=r"it overlaps 10\.9\.1\.0/24"):
        network.choose("a", "10.9.0.0/16", [IPv4Network("10.9.1.0/24"), IPv4Network("192.168.0.0/16")])


def test_a_pool_without_a_free_network_is_said():
    with pytest.raises(LocalClusterError, match="name another one as the subnet"):
        network.choose("a", None, [network.POOL])


def test_default_routes_and_the_clusters_own_take_nothing():
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "10.200.0.0/30", "dev": "kaours"},
        {"dst": "10.130.0.0/16", "dev": "eth1"},
        {"type": "local", "dst": "10.131.0.1", "dev": "eth1"},
        {"dst": "fd00::/64", "dev": "eth1"},
    ]
    assert network.networks_of_routes(json.dumps(routes), "kaours") == [IPv4Network("10.130.0.0/16"), IPv4Network("10.131.0.1/32")]


def test_a_named_lock_is_held_until_the_last_copy_is_closed():
    name = f"unit-test-{os.getpid()}"
    held = locks.named_lock(name, 0)
    copy = held.dup()
    held.close()
    with pytest.raises(LocalClusterError, match="another process has been working on"):
        locks.named_lock(name, 0.1)
    copy.close()
    locks.named_lock(name, 0).close()

"""Settings come from the environment, and a wrong one is named."""

from pathlib import Path

import pytest

from aios_sidecar.gateway.settings import InvalidSettingsError, Settings


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_environment({"HOME": "/"}) == Settings()


def test_settings_and_limits_are_read_by_their_names():
    given = {
        "AIOS_GATEWAY_NODE_SOCKET": "/x.sock",
        "AIOS_GATEWAY_METRICS_PORT": "0",
        "AIOS_GATEWAY_CONNECTIONS": "7",
        "AIOS_GATEWAY_DRAIN_SECONDS": "1.5",
    }
    settings = Settings.from_environment(given)
    assert (settings.node_socket, settings.metrics_port, settings.limits.connections, settings.drain_seconds) == (
        Path("/x.sock"),
        0,
        7,
        1.5,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("METRICS_PORT", "65536"),
        ("METRICS_PORT", "http"),
        ("CONNECTIONS", "0"),
        ("HEAD_SECONDS", "nan"),
        ("IDLE_SECONDS", "-1"),
        ("LIMITS", "{}"),
        ("EGRESS", "{}"),
        ("LOOKUPS", "0"),
        ("CONNECT_SECONDS", "0"),
        ("AUDIT_FILES", "1"),
        ("NODE_SOKCET", "/x"),
    ],
)
def test_a_wrong_setting_is_named(name, text):
    with pytest.raises(InvalidSettingsError, match=f"AIOS_GATEWAY_{name}"):
        Settings.from_environment({f"AIOS_GATEWAY_{name}": text})


def test_the_limits_of_the_way_out_and_the_clusters_own_ranges_are_read_too():
    given = {
        "AIOS_GATEWAY_LOOKUPS": "2",
        "AIOS_GATEWAY_INTERNAL_CIDRS": "198.51.100.0/24, 2001:db8::/48,",
        "AIOS_GATEWAY_AUDIT_FILE": "/x.jsonl",
    }
    settings = Settings.from_environment(given)
    assert (settings.egress.lookups, settings.audit_file) == (2, Path("/x.jsonl"))
    assert settings.internal_cidrs == ("198.51.100.0/24", "2001:db8::/48")


def test_a_range_that_is_none_is_named():
    with pytest.raises(InvalidSettingsError, match=r"AIOS_GATEWAY_INTERNAL_CIDRS: .*10\.0\.0\.1/8"):
        Settings.from_environment({"AIOS_GATEWAY_INTERNAL_CIDRS": "10.0.0.1/8"})

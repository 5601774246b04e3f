"""Asking the API server whether it is ready, with nothing but the standard library."""

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit


def http_is_ok(url: str, timeout_seconds: float) -> bool:
    """Whether a plain HTTP request is answered with 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Api:
    """The API at `url`, asked as the client whose certificate is given."""

    def __init__(self, url: str, authority: str, certificate: str, key: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 443
        self._files = (authority, certificate, key)
        self._tls: ssl.SSLContext | None = None

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            authority, certificate, key = self._files
            self._tls = ssl.create_default_context(cafile=authority)
            self._tls.load_cert_chain(certificate, key)
        return self._tls

    def get(self, path: str, timeout_seconds: float) -> tuple[int, bytes]:
        """Status and body; status 0 when the API could not be reached."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_seconds, context=self._context())
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def is_ready(self, timeout_seconds: float) -> bool:
        """Whether the API serves everything, its bootstrap roles included."""
        return self.get("/readyz", timeout_seconds)[0] == 200

    def not_ready_checks(self, timeout_seconds: float) -> str:
        """What /readyz says is missing, in one line."""
        status, body = self.get("/readyz?verbose", timeout_seconds)
        if status == 0:
            return "it can't be reached yet"
        missing = [line for line in body.decode(errors="replace").splitlines() if line.startswith("[-]")]
        return "; ".join(missing) or f"it answers {status}"

    def node_condition(self, node: str, timeout_seconds: float) -> tuple[bool, str]:
        """Whether the Node is Ready, and what its condition says."""
        status, body = self.get(f"/api/v1/nodes/{node}", timeout_seconds)
        if status != 200:
            return False, "the Node is not registered yet"
        found: dict[str, Any] = json.loads(body)
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready":
                return condition["status"] == "True", str(condition.get("message", ""))
        return False, "the Node has no Ready condition yet"

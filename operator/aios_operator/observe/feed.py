"""kopf as the feeder of our store: watches, reconnects, credentials; nothing else of it is used.

Its handlers here never await: kopf runs a worker per uid, and only a handler that returns without giving up the event loop keeps the
order of events. What kopf does not tell (objects that vanished during a relist, dead watches) is the audit's affair. When kopf ends,
for whatever reason, the process ends.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import kopf
from kubernetes.aio.client.configuration import Configuration

from aios_api import names
from aios_kube.transport import Credentials
from aios_operator.observe.audit import upsert
from aios_operator.observe.store import Store
from aios_operator.observe.table import Table
from aios_operator.settings import OperatorSettings

Relisted = Callable[[Table[Any]], None]
Seen = Callable[[str], None]


class _Jittered:
    """Kopf's waits after failed requests, drawn anew each time they are iterated: clients that failed together part."""

    def __iter__(self) -> Iterator[float]:
        return (base * (0.5 + random.random()) for base in (0.5, 1, 2, 4, 8, 15))  # noqa: S311 - jitter


class _NoDiffs(kopf.DiffBaseStorage):
    """For each event kopf copies the whole object, to find out what changed since it was handled last. Nobody here asks for that, and it
    was two fifths of what kopf takes for an event."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        raise AssertionError("nothing is stored in objects")


class _NoProgress(kopf.ProgressStorage):
    """As above: event handlers have no progress that would be kept in objects."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        raise AssertionError("nothing is stored in objects")

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        raise AssertionError("nothing is stored in objects")

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        raise AssertionError("nothing is stored in objects")

    def clear(self, *, essence: Any) -> Any:
        return essence


async def _stop_on_signals(started: asyncio.Event, stop: asyncio.Event) -> None:
    """In the place of kopf's own handlers, which fail on a second signal. Only the main thread may have any."""
    await started.wait()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)


@dataclass
class Feed:
    """Brings every change of the store's tables into the store."""

    store: Store
    credentials: Credentials
    settings: OperatorSettings
    relisted: Relisted
    seen: Seen
    """Told of each event: the plural of its resource."""

    async def run(self, stop: asyncio.Event) -> None:
        """Feeds until `stop` is set, as SIGTERM and SIGINT do. Raises when kopf gives up; the process must then end."""
        started = asyncio.Event()
        signals = asyncio.create_task(_stop_on_signals(started, stop))
        try:
            await kopf.operator(
                registry=self.registry(),
                settings=self.kopf_settings(),
                # Only peering uses it; by default kopf asks who owns the process, and our user id is in no passwd file.
                identity=cast(Any, names.MANAGED_BY),
                standalone=True,
                clusterwide=True,
                ready_flag=started,
                stop_flag=stop,
            )
        finally:
            signals.cancel()

    def registry(self) -> kopf.OperatorRegistry:
        """One event handler for each table, and our credentials."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="login")(self._login)
        for table in self.store.tables:
            resource = table.resource
            register = kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)
            register(self._handler(table))
        return registry

    def kopf_settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.persistence.progress_storage = _NoProgress()
        settings.scanning.disabled = True
        settings.networking.request_timeout = self.settings.request_seconds
        settings.networking.connect_timeout = 5
        settings.networking.error_backoffs = _Jittered()
        settings.watching.initial_streaming = False  # A break during a streamed list loses the rest of it.
        settings.watching.chunk_size = 500
        settings.watching.connect_timeout = 5
        settings.queueing.idle_timeout = 0.1  # A worker per uid: let it go when it has nothing to do.
        settings.process.ultimate_exiting_timeout = self.settings.exit_seconds
        for table in self.store.tables:
            # Tuples: keys written as 'v1/pods' match nothing, silently.
            key = (table.resource.group, table.resource.version, table.resource.plural)
            if table.selection.labels:
                settings.watching.label_selectors[key] = table.selection.labels
            if table.selection.fields:
                settings.watching.field_selectors[key] = table.selection.fields
        return settings

    def _handler(self, table: Table[Any]) -> Any:
        async def handle(event: Any, **_: Any) -> None:
            raw, kind = event["object"], event["type"]
            self.seen(table.resource.plural)
            if kind == "DELETED":
                metadata = raw["metadata"]
                table.remove(metadata.get("namespace") or "", metadata["name"], metadata["uid"])
                return
            if kind is None:
                self.relisted(table)
            upsert(table, raw)

        return handle

    async def _login(self, **__: Any) -> kopf.ConnectionInfo:
        found = Configuration()
        await self.credentials.load(found)
        scheme, _, token = found.api_key.get("BearerToken", "").partition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            scheme=scheme.capitalize() or None,
            token=token or None,
            proxy_url=found.proxy,
        )

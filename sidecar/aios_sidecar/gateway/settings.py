"""What can be set, from the environment: `AIOS_GATEWAY_` and the field's name in upper case."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from aios_api.addresses import Internal

PREFIX: Final = "AIOS_GATEWAY_"

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=65536)]


class InvalidSettingsError(Exception):
    """The environment asks for something that can't be; the message names each variable."""


def _split(text: object) -> object:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _ranges(cidrs: tuple[str, ...]) -> tuple[str, ...]:
    Internal.with_cluster(cidrs)  # ValueError names what is no range
    return cidrs


@dataclass(frozen=True)
class Limits:
    """What one agent may take. They hold for each agent alone, so that none can starve another."""

    connections: Count = 64
    """Open connections. An HTTP pool rarely keeps more than 10; beyond the limit a connection is answered with 503 and closed."""
    header_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 16 * 1024
    """Request line and headers together. As much as common servers accept."""
    body_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 64 * 1024
    """Of a request's content, on a route that takes none: it is read and dropped so that the connection stays usable."""
    held_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 8 << 20
    """Of content that is held in memory for all requests of an agent that are under way: two of the largest."""
    idle_seconds: Seconds = 75.0
    """Between requests of a kept connection. Longer than the 60 s after which clients commonly drop one, so that they close it, not we."""
    head_seconds: Seconds = 10.0
    """From the first byte of a request to the end of its headers. Both ends are on one machine: more than this is an attack or a bug."""
    body_seconds: Seconds = 30.0
    """From the end of the headers to the end of the content."""
    write_seconds: Seconds = 30.0
    """For a response to be taken by its reader."""


@dataclass(frozen=True)
class EgressLimits:
    """What one agent may take of the way out. Each of its connections has one connection outside at most."""

    lookups: Count = 4
    """Names resolved at once. More than a client that opens its connections needs; 8 agents with dead name servers leave threads free."""
    lookup_threads: Annotated[int, Field(ge=1, le=1024)] = 64
    """Of all agents together."""
    resolve_seconds: Seconds = 5.0
    """For a name. The system's resolver goes on for longer; the agent is told and may ask again."""
    connects_per_second: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 50.0
    connects_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """New connections outside: one that was ended in order keeps its port for a minute, and a host can be asked from 28,000 of them."""
    connect_seconds: Seconds = 10.0
    """For a connection, over all its addresses. Clients commonly give up after 10 s or more."""
    hello_seconds: Seconds = 10.0
    """From the answer to CONNECT to the end of the ClientHello, which clients send at once."""
    hello_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 64 * 1024
    """Of a ClientHello. With post-quantum keys and tickets they have 2 to 4 KiB; OpenSSL takes 128 KiB."""
    tunnel_idle_seconds: Seconds = 900.0
    """Without a byte either way. Model servers can think for minutes before they say anything."""
    tunnel_seconds: Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)] = 86400.0
    """For a tunnel in all, so that none lives for ever."""
    content_seconds: Seconds = 60.0
    """Between pieces of a request's content."""
    content_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 1 << 30
    """Of one plain request. What is larger goes through a tunnel."""
    response_seconds: Seconds = 600.0
    """Until a response begins, and between its pieces."""
    response_bytes: Annotated[int, Field(ge=0, le=1 << 44)] = 16 << 30
    """Of one plain response: a model's weights fit."""
    response_head_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 64 * 1024
    """Status line and headers of a response together; cookies and policies make them longer than a request's."""


@dataclass(frozen=True)
class MoveLimits:
    """What moves of contexts between nodes may take."""

    moves_at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Each way. A drained node moves as many at once; the others wait."""
    move_bytes_per_second: Annotated[float, Field(ge=1 << 20, le=1 << 40, allow_inf_nan=False)] = float(100 << 20)
    """Of each context that is given. Four of them fill half a network of 10 Gbit/s."""
    move_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 44)] = 64 << 30
    """Of one context. The largest that spec.context allows, 16 GiB of content, takes up to three times as much."""
    move_greetings: Annotated[int, Field(ge=1, le=4096)] = 64
    """Connections whose other end has not shown yet who it is; one more takes the place of the oldest."""
    move_greeting_seconds: Seconds = 10.0
    """For showing it."""


@dataclass(frozen=True)
class Settings:
    """Of one gateway process."""

    node_socket: Path = Path("/run/aios/gateway/node.sock")
    """Where the node agent hands over listeners."""
    node_uid: Annotated[int, Field(ge=0)] = 0
    """The user that the node agent runs as. Root, since it enters network namespaces; any other peer is refused."""
    metrics_host: str = "127.0.0.1"
    """Where metrics and probes are answered. The chart sets the pod's address; the default is reachable from nowhere else."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9490
    """0 takes a free one and logs it."""
    mute_seconds: Seconds = 60.0
    """How long agents are answered at most after the API server was heard last. The node agent and the operator have the same value: the
    operator replaces the agents of a silent node only after more than that."""
    reconnect_min_seconds: Seconds = 0.1
    """First pause before connecting to the node agent again; it restarts in about a second, and agents are served meanwhile."""
    reconnect_max_seconds: Seconds = 5.0
    """The pause doubles up to this. An agent that starts while the node agent is back waits at most as long for its endpoint."""
    drain_seconds: Seconds = 10.0
    """For requests in progress after SIGTERM. Less than the 30 s after which the kubelet kills."""
    context_dir: Path | None = None
    """Where contexts are kept, a folder for each agent, on a local disk. The chart sets it; without it there are no contexts."""
    move_host: str = ""
    """Where gateways of other nodes fetch contexts. The chart sets the pod's address; empty: nowhere, and contexts stay on their node."""
    move_port: Annotated[int, Field(ge=0, le=65535)] = 9491
    """0 takes a free one."""
    tokenizers_dir: Path | None = None
    """A folder for each model that has a tokenizer of its own: `tokenizer.json`, and `tokenizer_config.json` for its template."""
    embeddings_dir: Path | None = None
    """A table of vectors for questions to contexts: `tokenizer.json` and one `.safetensors` file (extra `embeddings`). None: words only."""
    internal_cidrs: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_ranges), Field(max_length=64)] = ()
    """Ranges that are internal though they are public, separated by commas. Private ones are internal without being named."""
    ranges_file: Path | None = None
    """A range on each line that is the cluster's own and public. It is read again when it changes: the operator keeps it."""
    own_addresses: Annotated[tuple[str, ...], BeforeValidator(_split), Field(max_length=64)] = ()
    """Of this pod, its node and the API server, separated by commas: internal, whatever they are."""
    audit_file: Path | None = None
    """Where egress is written down, a JSON line each. None: nowhere, counters apart."""
    audit_file_bytes: Annotated[int, Field(ge=64 * 1024, le=1 << 34)] = 16 << 20
    """Of one file; about 50,000 lines."""
    audit_files: Annotated[int, Field(ge=2, le=100)] = 8
    """Kept, with the one that is written."""
    limits: Limits = field(default_factory=Limits)
    egress: EgressLimits = field(default_factory=EgressLimits)
    moves: MoveLimits = field(default_factory=MoveLimits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings that `environment` asks for. Raises InvalidSettingsError for a variable that is unknown or out of range."""
        given = {name.removeprefix(PREFIX).lower(): text for name, text in environment.items() if name.startswith(PREFIX)}
        groups = {"limits": {f.name for f in fields(Limits)}, "egress": {f.name for f in fields(EgressLimits)}}
        groups |= {"moves": {f.name for f in fields(MoveLimits)}}
        grouped = set().union(*groups.values())
        nested: dict[str, object] = {name: text for name, text in given.items() if name not in grouped}
        nested |= {group: {name: text for name, text in given.items() if name in names} for group, names in groups.items()}
        unknown = sorted(set(given) - grouped - ({f.name for f in fields(cls)} - set(groups)))
        if unknown:
            raise InvalidSettingsError(f"{PREFIX}{unknown[0].upper()} is not a setting of the gateway")
        try:
            return TypeAdapter(cls).validate_python(nested)
        except ValidationError as error:
            raise InvalidSettingsError("; ".join(f"{PREFIX}{str(e['loc'][-1]).upper()}: {e['msg']}" for e in error.errors())) from None

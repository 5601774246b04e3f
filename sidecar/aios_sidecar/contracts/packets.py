"""The form of what processes of the sidecar say to each other: one JSON message in one packet of a socket."""

from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MESSAGE_LIMIT_BYTES: Final = 64 * 1024
ClaimUID = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,64}$")]
Known = TypeVar("Known")


class Part(BaseModel):
    """Of a message, or a message: exactly the fields that it declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Packet(Part):
    """A message. Each kind has a name of its own, by which the other side knows it."""

    type: str


class ProtocolError(Exception):
    """The peer said what the contract does not know."""


def encode(message: Packet) -> bytes:
    """One packet. Raises ValueError when it would be longer than the contract allows."""
    packet = message.model_dump_json(by_alias=True, exclude_none=True).encode()
    if len(packet) > MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a {message.type} message of {len(packet)} bytes: at most {MESSAGE_LIMIT_BYTES} fit")
    return packet


def decode(known: TypeAdapter[Known], packet: bytes) -> Known:
    """The message in `packet`; ProtocolError when it is not exactly one that is known."""
    if len(packet) > MESSAGE_LIMIT_BYTES:
        raise ProtocolError(f"a packet of {len(packet)} bytes: at most {MESSAGE_LIMIT_BYTES} are allowed")
    try:
        return known.validate_json(packet)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ProtocolError(f"not a message of the contract: {'.'.join(map(str, first['loc'])) or 'packet'}: {first['msg']}") from None

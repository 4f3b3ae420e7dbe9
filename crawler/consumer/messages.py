"""
What a consumer and its verifiers say to each other over their pipe.

A verifier gets a `Setup` and says `Ready` once. `Orders` are followed by open descriptors: for each number that of the
download, and that of an empty file where images are transformed. It answers `Accepted` or `Refused` for each number, in
this order, each as soon as it knows.
"""

from __future__ import annotations

import msgspec

from crawler.facts import Facts
from crawler.model import Image
from crawler.reasons import Reason
from crawler.settings import Limits
from crawler.treatment import Treatment


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Base of the messages: fields go by position, after the name where there is a choice."""


class Setup(_Message, frozen=True, kw_only=True):
    """What a verifier is told before its first order."""

    limits: Limits
    treatment: Treatment = Treatment()


class Orders(_Message, frozen=True, kw_only=True):
    """Verify the images in the descriptors that follow."""

    #: One for each image, chosen by the consumer; it comes back with the verdict.
    numbers: list[int]


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """The decoders are loaded and the verifier is confined; jobs may come."""

    #: Parts of the sandbox that this system does not offer, in words for people.
    missing: list[str] = []


class Accepted(_Message, frozen=True, kw_only=True, tag="accepted"):
    """The image decodes completely."""

    number: int
    #: What is to be stored: the image as it is, or as it was written into the file that came with the order.
    image: Image
    #: About the image, as far as they are wanted and the file tells them.
    facts: Facts | None = None
    #: Whether the verifier has done its share, or has grown: it judges no more and is to be replaced.
    is_worn: bool = False


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """The bytes are no image that can be stored."""

    number: int
    reason: Reason
    detail: str
    #: As in `Accepted`.
    is_worn: bool = False


Verdict = Accepted | Refused

_encoder = msgspec.msgpack.Encoder()
_orders_decoder = msgspec.msgpack.Decoder(Orders)
_setup_decoder = msgspec.msgpack.Decoder(Setup)
_answer_decoder: msgspec.msgpack.Decoder[Ready | Verdict] = msgspec.msgpack.Decoder(Ready | Accepted | Refused)


def encode(message: Setup | Orders | Ready | Verdict) -> bytes:
    """Return *message* as bytes for the pipe."""
    return _encoder.encode(message)


def decode_setup(data: bytes) -> Setup:
    """Return the setup in *data*."""
    return _setup_decoder.decode(data)


def decode_orders(data: bytes) -> Orders:
    """Return the orders in *data*."""
    return _orders_decoder.decode(data)


def decode_answer(data: bytes) -> Ready | Verdict:
    """
    Return what a verifier said.

    Raises:
        ValueError: It is not what was agreed: the verifier cannot be trusted any more.
    """
    try:
        return _answer_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a verdict: {error}") from error

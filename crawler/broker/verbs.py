"""What a served object can be asked: the functions of its protocol, with the types of arguments and result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, get_type_hints

from crawler.broker.wire import typed, unpack


class Service(NamedTuple):
    """An object that is served, or asked, under a name."""

    #: The same on both sides.
    name: str
    #: A `typing.Protocol` whose public functions are the verbs.
    protocol: type
    #: The object itself; None on the side that asks.
    target: object | None


class Verb(NamedTuple):
    """One function of a protocol."""

    name: str
    #: Without self.
    signature: inspect.Signature
    #: Type of the list of arguments.
    arguments: Any
    result: Any

    def line_up(self, args: tuple[Any, ...], kwds: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return all arguments by name, in the order in which they are sent, defaults filled in.

        Raises:
            TypeError: They do not fit the function.
        """
        bound = self.signature.bind(*args, **kwds)
        bound.apply_defaults()
        return dict(bound.arguments)

    def read_arguments(self, packed: Any) -> tuple[Any, ...]:
        """
        Return arguments that came over the wire as what the function declares.

        Raises:
            WireError: They are something else.
        """
        arguments: tuple[Any, ...] = unpack(packed, self.arguments)
        return arguments

    def read_result(self, raw: object) -> Any:
        """
        Return a result that came over the wire as what the function declares.

        Raises:
            WireError: It is something else.
        """
        return typed(raw, self.result)


def verbs(protocol: type) -> dict[str, Verb]:
    """Return the verbs of a protocol by name: its public functions and those it inherits, and nothing else."""
    found = {}
    for base in reversed(protocol.__mro__):
        if base is not object and base is not Protocol:
            functions = {name: item for name, item in vars(base).items() if inspect.isfunction(item)}
            found.update({name: _verb(name, item) for name, item in functions.items() if not name.startswith("_")})
    return found


def tables(services: Sequence[Service]) -> dict[str, dict[str, Verb]]:
    """Return the verbs of all services, by the name of the service."""
    return {service.name: verbs(service.protocol) for service in services}


def _verb(name: str, function: Any) -> Verb:
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    kinds = tuple(hints[parameter.name] for parameter in parameters)
    return Verb(name, signature.replace(parameters=parameters), tuple[kinds], hints["return"])  # type: ignore[valid-type]

"""The asking side of the manager: objects that have a protocol's verbs and pass each call on to the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from multiprocessing import managers
from typing import Any

from crawler.broker.line import Line
from crawler.broker.verbs import Verb


class QueueProxy(managers.BaseProxy):
    """
    Base of the proxies; may be used by many threads at once.

    Args:
        token: Which object, at which address.
        transport: Name of the transport.
        line: What calls go over.
        verbs: What can be called.
    """

    def __init__(self, token: managers.Token, transport: str, line: Line, verbs: Mapping[str, Verb]) -> None:
        # For form's sake, or the base would take the process's own key: it is the line that proves ours.
        super().__init__(token, transport, authkey=b"", incref=False)
        self._line = line
        self._verbs = verbs
        # The base shares connections between all proxies of one address, whatever their key or manager.
        self._tls = line.local

    def _connect(self) -> None:
        self._line.connect()

    def _incref(self) -> None:
        """Do nothing: served objects are not counted. The base calls this after a fork."""

    def _callmethod(self, methodname: str, args: Any = (), kwds: Mapping[str, Any] = {}) -> Any:  # noqa: B006
        verb = self._verbs.get(methodname)
        if verb is None:
            raise AttributeError(f"{type(self).__name__} has no verb {methodname!r}")
        named = verb.line_up(args, kwds)

        def once() -> Any:
            return verb.read_result(super(QueueProxy, self)._callmethod(methodname, tuple(named.values())))

        return self._line.call(once, float(named.get("wait") or 0.0))

    def __reduce__(self) -> Any:
        raise TypeError("a proxy cannot be pickled: connect where it is needed")

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a proxy cannot be copied: it can be used by many threads as it is")

    def __str__(self) -> str:
        return repr(self)


def proxy_type(protocol: type, verbs: Mapping[str, Verb]) -> type[QueueProxy]:
    """Make the class of proxies for a protocol, one method for each verb."""
    methods = {name: _method(name) for name in verbs}
    return type(f"{protocol.__name__}Proxy", (QueueProxy,), {**methods, "_exposed_": tuple(verbs)})


def _method(name: str) -> Callable[..., Any]:
    def method(self: QueueProxy, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = name
    return method

"""How hosts fare: what the ends of fetches say about them, and what of it is to be kept. Pure, like the frontier."""

from __future__ import annotations

from crawler.broker.health import Says
from crawler.broker.hosts import Held, Host, SavedHost
from crawler.broker.origins import FAILURE_LIFE, LIFE, Refusal, Rules, SavedOrigin


class Standing:
    """What is noted of the hosts of one frontier."""

    def __init__(self) -> None:
        #: Those whose state is to be kept anew, by key.
        self._changed: dict[int, Host] = {}

    def pause(self, host: Host, until: float, is_asked: bool = False) -> None:
        """Let no fetch of *host* start before *until*; where the host asked for it, whatever happens."""
        if is_asked:
            host.asked_until = max(host.asked_until, until)
        if until > host.next_start:
            host.next_start = until
            self._changed[host.key] = host

    def note(self, held: Held, says: Says, detail: str, now: float) -> None:
        """Take note of what the end of a fetch says about its host."""
        host = held.host
        match says:
            case Says.ANSWERED:
                changed = host.answered()
            case Says.FAILED:
                changed = host.failed(held, detail, now)
            case Says.ASKED:
                host.asked_to_wait(held, now)
                changed = host.failed(held, detail, now) or True
            case _:
                changed = False
        if changed:
            self._changed[host.key] = host

    def learn(self, held: Held, text: str, rules: Rules, now: float) -> SavedOrigin:
        """Take the *rules* of the *text* that the ending lease *held* found; return what is to be kept of it."""
        assert held.origin is not None
        held.origin.learn(rules, now + LIFE)
        held.host.settle_delay()
        held.host.resume()
        return SavedOrigin(held.host.key, held.origin.name, now + LIFE, text)

    def refuse_origin(self, held: Held, refusal: Refusal, now: float) -> SavedOrigin:
        """Let all tasks of an origin fail, whose robots.txt the ending lease *held* could not get."""
        assert held.origin is not None
        held.origin.refuse(refusal, now + FAILURE_LIFE)
        held.host.resume()
        return SavedOrigin(held.host.key, held.origin.name, now + FAILURE_LIFE, None, refusal)

    def ask_again(self, held: Held, until: float, is_charged: bool) -> None:
        """Ask for a robots.txt again at *until*, which the ending lease *held* could not get; others come first."""
        assert held.origin is not None
        held.origin.asked = False
        held.origin.attempts += is_charged
        self.pause(held.host, until)
        held.host.tasks.extend(held.host.waiting)
        held.host.waiting.clear()

    def take_changed(self) -> list[SavedHost]:
        """Return, once, the hosts whose state is to be kept anew."""
        found, self._changed = [host.save() for host in self._changed.values()], {}
        return found

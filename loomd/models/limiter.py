"""What a provider's key may be used for at once and in a minute, for the whole daemon.

A lane is one key: providers that name the same key, at the same address, share it. It bounds the
calls under way, and by its gauges requests and tokens per minute. A 429 puts the whole lane into a
cool-down, as long as the provider asked for, else longer each time; after it one call goes first,
and twice as many every RAMP_S, so that not every agent finds out for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loomd.models.gauge import Gauge
from loomd.wire.bodies import RateLimit
from loomd.wire.models import provider_of

CONCURRENCY = 8
"""Calls at once with one key, unless the configuration says otherwise."""

KEY_SOURCES = ("api_key_env", "api_key_file", "api_key_command", "api_key_credential")
"""Of a provider's table: where its key is from."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LONGEST_ASKED_S = 3600.0
"""Of a pause that the provider asked for: a mistake of its must not silence a model for ever."""

RAMP_S = 2.0
"""A 429 comes at once: that none came for so long lets twice as many calls go."""

TABLE = {"requests": "requests_per_minute", "tokens": "tokens_per_minute"}
"""Gauges that the configuration may bound, and by which key of a provider."""


def usual_key(provider: str) -> str:
    """The variable that holds a provider's key where the configuration names none."""
    return f"{provider.upper()}_API_KEY"


@dataclass(frozen=True)
class Estimate:
    """Of one call, in tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, what: str) -> float:
        match what:
            case "requests":
                return 1.0
            case "input_tokens":
                return self.input
            case "output_tokens":
                return self.output
            case _:
                return self.input + self.output


@dataclass
class Lane:
    """limit  calls at once
    active calls under way
    until  end of the cool-down; 0: there was none lately
    since  when it was set; hits: cool-downs in a row
    """

    limit: int = CONCURRENCY
    active: int = 0
    until: float = 0.0
    since: float = 0.0
    hits: int = 0
    gauges: dict[str, Gauge] = field(default_factory=dict)

    def whole_at(self, estimate: Estimate, now: float) -> float:
        """When its gauges are whole enough, if all is true that the provider has told."""
        return max(
            (gauge.whole_at(estimate.of(what), now) for what, gauge in self.gauges.items()),
            default=now,
        )

    def ready_at(self, estimate: Estimate, now: float) -> float:
        """When a call may start: `now`; later; infinity: when one that is under way has ended."""
        if now < self.until:
            return self.until
        if self.active >= self.limit:
            return float("inf")
        at = self._ramp_at(now)
        for what, gauge in self.gauges.items():
            at = max(at, gauge.ready_at(estimate.of(what), now))
        return at

    def _ramp_at(self, now: float) -> float:
        """1 call at once after a cool-down, 2 from RAMP_S on, 4 from twice that, ..."""
        if not self.until:
            return now
        steps = min(30, max(0, int((now - self.until) / RAMP_S)))
        if 2**steps >= self.limit or self.active < 2**steps:
            return now
        return self.until + RAMP_S * (steps + 1)

    def begin(self, estimate: Estimate, now: float) -> None:
        self.active += 1
        for what, gauge in self.gauges.items():
            gauge.take(estimate.of(what), now)

    def cool(self, began: float, asked: float | None, now: float) -> None:
        """A 429 for a call that began then. Those that were under way when the cool-down was set
        say nothing new, unless they ask for a longer one."""
        if self.since and began < self.since:
            if asked is not None:
                self.until = max(self.until, now + min(asked, LONGEST_ASKED_S))
            return
        self.hits += 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.hits - 1, 16))
        if asked is not None:
            pause = min(asked, LONGEST_ASKED_S)
        self.since = now
        self.until = max(self.until, now + pause)

    def answered(self, began: float, now: float) -> None:
        if began >= self.since:
            self.hits = 0
            self.until = min(self.until, now)  # a check was let through, and the pause is moot

    def forget(self) -> None:
        """Another key, or another server: what was found out of this one is of none."""
        self.until, self.since, self.hits = 0.0, 0.0, 0
        for gauge in self.gauges.values():
            gauge.limit = 0.0


@dataclass
class Limiter:
    """`lanes` by the name of the first provider that uses the key; `shared`: key -> that name;
    `keys`: provider -> its key, as (address, where the key is from)."""

    lanes: dict[str, Lane] = field(default_factory=dict)
    shared: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    limits: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def configure(self, providers: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Other limits for what comes; what is under way is counted as before."""
        before = self.keys
        self.shared, self.keys, self.limits = {}, {}, {}
        for name in sorted(providers):
            said = providers[name] or {}
            key = next((said[source] for source in KEY_SOURCES if said.get(source)), None)
            self.keys[name] = (said.get("api_base") or "", str(key or usual_key(name)))
            first = self.shared.setdefault(self.keys[name], name)
            merged = dict(self.limits.get(first) or {})
            for field_ in ("concurrency", *TABLE.values()):
                if said.get(field_):
                    merged[field_] = min(said[field_], merged.get(field_, said[field_]))
            self.limits[first] = merged
        for name, lane in self.lanes.items():
            usual = "", usual_key(name)
            if before.get(name, usual) != self.keys.get(name, usual):
                lane.forget()
            self._bound(name, lane)

    def _bound(self, name: str, lane: Lane) -> None:
        said = self.limits.get(name) or {}
        lane.limit = said.get("concurrency") or CONCURRENCY
        for what, key in TABLE.items():
            if said.get(key):
                lane.gauges.setdefault(what, Gauge()).ours = float(said[key])
            elif what in lane.gauges:
                lane.gauges[what].ours = None
                lane.gauges[what].taken = []

    def name_of(self, model: str) -> str:
        """The lane of a model."""
        provider = provider_of(model)
        key = self.keys.get(provider) or ("", usual_key(provider))
        return self.shared.get(key, provider)

    def lane(self, name: str) -> Lane:
        found = self.lanes.get(name)
        if found is None:
            found = self.lanes[name] = Lane()
            self._bound(name, found)
        return found

    def end(
        self, name: str, estimate: Estimate, actual: Estimate | None, began: float, now: float
    ) -> None:
        """A call has ended. `actual` None: what it took is not known."""
        lane = self.lane(name)
        lane.active -= 1
        assert lane.active >= 0, f"a call of {name} ended that had not begun"
        if actual is not None:
            for what, gauge in lane.gauges.items():
                gauge.correct(began, estimate.of(what), actual.of(what), now)

    def learn(
        self,
        name: str,
        told: Iterable[RateLimit],
        began: float,
        now: float,
        since: Iterable[Estimate],
    ) -> None:
        """Headers of an answer; `since`: calls under way that began after it."""
        lane = self.lane(name)
        others = list(since)
        for one in told:
            gauge = lane.gauges.setdefault(one.what, Gauge())
            gauge.learn(one, began, now, sum(other.of(one.what) for other in others))

    def saved(self) -> dict[str, Any]:
        """Without the calls under way: those are counted from the queue."""
        return {
            name: [
                lane.until,
                lane.since,
                lane.hits,
                {what: gauge.saved() for what, gauge in lane.gauges.items()},
            ]
            for name, lane in self.lanes.items()
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        for name, (until, since, hits, gauges) in saved.items():
            made = {what: Gauge.of(one) for what, one in gauges.items()}
            lane = self.lanes[name] = Lane(until=until, since=since, hits=hits, gauges=made)
            self._bound(name, lane)

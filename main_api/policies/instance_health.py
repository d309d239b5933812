"""What active health checks have found: which instances to leave out."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from main_api.exchange import Instance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthThresholds:
    """How many checks in a row take an instance out or bring it back. Raises :class:`ValueError`."""

    unhealthy_after: int = 3
    healthy_after: int = 2

    def __post_init__(self) -> None:
        for name in ("unhealthy_after", "healthy_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 needed, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LastCheck:
    """What the last check of an instance found, at a moment of the monotonic clock.

    ``cause`` is what was wrong, None for nothing; ``failed`` what was wrong when one failed last, which
    need not be this one.
    """

    at: float
    ok: bool
    cause: str | None
    failed: str | None


class InstanceHealth:
    """Keeps the verdict of each instance; one that was never checked is healthy.

    ``changed`` is called with an instance and whether it is healthy, at its first check and whenever
    that changes.
    """

    def __init__(
        self,
        thresholds: HealthThresholds,
        changed: Callable[[Instance, bool], object] = lambda _, __: None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._thresholds = thresholds
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[Instance, LastCheck] = {}
        self._against: dict[Instance, int] = {}  # checks in a row that speak against the verdict
        self._out: frozenset[Instance] = frozenset()
        self._unproven: frozenset[Instance] = frozenset()

    def joined(self, instance: Instance) -> None:
        """Leave out an instance that has just been found until a check of it succeeds (as Envoy does).

        A registry may list what is not there yet, or never was. When there are no others, it is asked all
        the same.
        """
        with self._lock:
            if instance not in self._against:
                self._unproven |= {instance}

    def unproven(self, instance: Instance) -> bool:
        """Whether no check of ``instance`` has succeeded since it joined."""
        return instance in self._unproven

    def record(self, instance: Instance, ok: bool, cause: str = "") -> None:
        """Count one check; ``cause`` says what was wrong, to operators alone."""
        with self._lock:
            before = self._last.get(instance)
            wrong = None if ok else cause
            failed = (before.failed if before else None) if ok else cause
            self._last[instance] = LastCheck(self._clock(), ok, wrong, failed)
            if ok:
                self._unproven -= {instance}
            out = instance in self._out
            first = instance not in self._against
            against = self._against.get(instance, 0) + 1 if ok == out else 0
            needed = self._thresholds.healthy_after if out else self._thresholds.unhealthy_after
            turned = against >= needed
            self._against[instance] = 0 if turned else against
            if turned:
                self._out ^= {instance}
        if turned:
            log.log(
                logging.INFO if out else logging.WARNING,
                "health checks of %s: %s after %d in a row%s",
                instance.url,
                "healthy" if out else "unhealthy",
                needed,
                f": {cause}" if cause else "",
            )
        if turned or first:
            self._changed(instance, out if turned else True)

    def forget(self, instance: Instance) -> None:
        """Drop all that is known of an instance that is no more."""
        with self._lock:
            self._last.pop(instance, None)
            self._against.pop(instance, None)
            self._out -= {instance}
            self._unproven -= {instance}

    def last(self, instance: Instance) -> LastCheck | None:
        """Give what the last check of ``instance`` found, None before the first."""
        return self._last.get(instance)

    def healthy(self, instance: Instance) -> bool:
        """Whether nothing speaks against ``instance``."""
        return instance not in self._out

    def usable(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Leave out the unproven ones, and the unhealthy ones unless fewer than half would stay.

        Then it is likelier that the checks are wrong than that so many are ill (Envoy's panic mode), and
        the few that are left would not carry the load.
        """
        if self._unproven:
            instances = [each for each in instances if each not in self._unproven] or instances
        if not self._out:
            return instances
        healthy = [each for each in instances if each not in self._out]
        return healthy if 2 * len(healthy) >= len(instances) else instances

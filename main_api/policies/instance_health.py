"""What active health checks have found: which instances to leave out."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


class InstanceHealth:
    """Keeps the verdict of each instance; one that was never checked is healthy.

    ``changed`` is called with an instance and whether it is healthy, at its first check and whenever
    that changes.
    """

    def __init__(
        self, thresholds: HealthThresholds, changed: Callable[[Instance, bool], object] = lambda _, __: None
    ) -> None:
        self._thresholds = thresholds
        self._changed = changed
        self._lock = threading.Lock()
        self._against: dict[Instance, int] = {}  # checks in a row that speak against the verdict
        self._out: frozenset[Instance] = frozenset()

    def record(self, instance: Instance, ok: bool, cause: str = "") -> None:
        """Count one check; ``cause`` is for the log."""
        with self._lock:
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
        """Drop the verdict of an instance that is no more."""
        with self._lock:
            self._against.pop(instance, None)
            self._out -= {instance}

    def healthy(self, instance: Instance) -> bool:
        """Whether nothing speaks against ``instance``."""
        return instance not in self._out

    def usable(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Leave out the unhealthy ones, unless fewer than half would stay.

        Then it is likelier that the checks are wrong than that so many are ill (Envoy's panic mode), and
        the few that are left would not carry the load.
        """
        if not self._out:
            return instances
        healthy = [each for each in instances if each not in self._out]
        return healthy if 2 * len(healthy) >= len(instances) else instances

"""Calls and failures of the last seconds, in constant room."""

_STEPS = 10


class Window:
    """Counts over the last ``seconds``, forgetting a tenth of them at a time.

    Not locked: its owner holds a lock.
    """

    def __init__(self, seconds: float) -> None:
        self._step_seconds = seconds / _STEPS
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._steps = [-_STEPS] * _STEPS
        self._calls = [0] * _STEPS
        self._failures = [0] * _STEPS

    def add(self, now: float, failed: bool) -> None:
        """Count one call that ended ``now``, in seconds of a clock that never goes back."""
        step = int(now / self._step_seconds)
        place = step % _STEPS
        if self._steps[place] != step:
            self._steps[place], self._calls[place], self._failures[place] = step, 0, 0
        self._calls[place] += 1
        self._failures[place] += failed

    def totals(self, now: float) -> tuple[int, int]:
        """Give calls and failures."""
        oldest = int(now / self._step_seconds) - _STEPS
        living = [place for place in range(_STEPS) if self._steps[place] > oldest]
        return sum(self._calls[place] for place in living), sum(self._failures[place] for place in living)

"""The cache against the model of its rules, over more sequences than an ordinary run has time for."""

from collections import Counter

import pytest

from tests.faults.support import per_form, say
from tests.main_api.policies.test_cache_against_model import STEPS, run


@pytest.mark.parametrize("ages", [False, True], ids=["", "with an Age of the service's own"])
def test_no_sequence_of_many_tells_it_from_the_model(ages: bool) -> None:
    sequences = per_form(20_000, 100_000)
    seen: Counter[str] = Counter()

    # Beside those of the ordinary run, which begin at 0.
    for seed in range(1_000_000, 1_000_000 + sequences):
        seen.update(run(seed, ages=ages))

    say(f"{sequences} sequences of {STEPS} steps, no difference; so many had {dict(seen)}")
    assert min(seen[kind] for kind in ("hit", "first hand", "stood in", "error")) > sequences / 40

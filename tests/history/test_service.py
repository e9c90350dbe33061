"""What time it is for retention."""

from streams.history import projection
from streams.history.projection import DAY
from streams.history.service import Today
from tests.history.support import NOW, Kept, Log, event

YEAR_S = 365 * 24 * 3600.0
BEGAN_S = NOW.timestamp() - 2 * 3600


def test_a_wall_clock_that_is_years_ahead_lets_nothing_be_forgotten_and_time_goes_on(kept: Kept) -> None:
    wall, steady = NOW.timestamp() + 2 * YEAR_S, 100.0
    today = Today(kept.database, wall=lambda: wall, steady=lambda: steady)
    assert today() is None
    kept.apply(Log().tell(event("sent")).take())
    received_s = BEGAN_S + 1
    assert today() == received_s
    assert projection.forget(kept.database, round(received_s * 1_000_000) - 400 * DAY) == 0
    steady += 2 * YEAR_S
    assert today() == received_s + 2 * YEAR_S  # no news for two years: it is forgotten all the same
    assert projection.forget(kept.database, round((today() or 0) * 1_000_000) - 400 * DAY) == 1
    steady += 5
    assert today() == received_s + 2 * YEAR_S + 5


def test_it_is_never_later_than_the_wall_clock_says(kept: Kept) -> None:
    today = Today(kept.database, wall=lambda: BEGAN_S - 60, steady=lambda: 1.0)
    kept.apply(Log().tell(event("sent")).take())
    assert today() == BEGAN_S - 60

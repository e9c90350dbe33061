"""The suite's arithmetic: rates, percentiles, medians, and what is written of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import figures
from bench.figures import Figure, Figures, Goal, Window
from bench.workers import flow_of

SOME = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50)


def test_a_figure_is_the_median_of_its_rounds_with_their_spread() -> None:
    figure = Figure("x", (3.0, 1.0, 2.0))

    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)


def test_rounds_of_one_name_make_one_figure_in_the_order_of_the_first() -> None:
    run = Figures()
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        run.add(name, value)

    assert run.all() == [Figure("b", (1, 3)), Figure("a", (2,))]


@pytest.mark.parametrize(("value", "text"), [(75321.4, "x=75321"), (0.98765, "x=0.9877"), (12.0, "x=12")])
def test_a_line_is_plain_for_programs(value: float, text: str) -> None:
    assert Figure("x", (value,)).line == text


def test_a_goal_is_met_from_its_own_side_only() -> None:
    assert Goal(at_least=True, value=0.9).met_by(0.9)
    assert not Goal(at_least=True, value=0.9).met_by(0.89)
    assert Goal(at_least=False, value=60).met_by(59)
    assert not Goal(at_least=False, value=60).met_by(61)


def test_a_table_shows_a_missed_goal() -> None:
    name = "thin_ratio_quix"
    met, missed = figures.table([Figure(name, (1.6,))]), figures.table([Figure(name, (1.2, 1.3, 9.0))])

    assert "met" in met[2]
    assert "**missed**" in missed[2]
    assert "| 1.3 | 1.2 | 9 | 3 | >= 1.6 |" in missed[2]


# -- percentiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_of_a_hundred_is_its_own_number(share: float, wanted: int) -> None:
    assert figures.percentile(list(range(1, 101))[::-1], share) == wanted


@given(SOME, st.sampled_from([0.5, 0.9, 0.99]))
def test_at_least_that_share_is_not_above_a_percentile(values: list[float], share: float) -> None:
    found = figures.percentile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values) + 1


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        figures.percentile([], 0.5)


# -- the timed window -----------------------------------------------------------------------------------------------------


def test_an_even_stream_gives_its_rate() -> None:
    window = figures.window_of([number / 100 for number in range(1001)])  # 100 a second

    assert 1001 * window.share / window.seconds == pytest.approx(100)


def test_a_large_first_batch_is_no_advantage() -> None:
    """A tenth of the outputs at one moment, then 100 a second: the rate is 100."""
    window = figures.window_of([0.0] * 100 + [number / 100 for number in range(1, 1001)])

    assert 1100 * window.share / window.seconds == pytest.approx(100)


def test_a_last_flush_of_what_was_in_flight_is_no_advantage() -> None:
    """Batches of 50, one each half second, and two more at the end: the rate is 100."""
    batches = [number / 2 for number in range(40) for _ in range(50)]

    window = figures.window_of([*batches, *[19.501] * 50, *[19.502] * 50])

    assert 2100 * window.share / window.seconds == pytest.approx(100)


def test_neither_a_slow_start_nor_a_slow_end_is_timed() -> None:
    steady = [60 + number / 100 for number in range(1, 1001)]

    assert figures.window_of([0.0, 30.0, *steady, 100.0]).seconds < 10


def test_two_batches_are_timed_as_a_whole() -> None:
    assert figures.window_of([1.0] * 99 + [3.0]) == Window(1.0, 3.0, 0.01)


@given(st.lists(st.integers(min_value=0, max_value=10), min_size=2, max_size=60).filter(lambda ts: len(set(ts)) > 1))
def test_a_window_always_has_a_length_and_some_work(appended: list[int]) -> None:
    window = figures.window_of([float(at) for at in appended])

    assert window.seconds > 0
    assert 0 < window.share <= 1


@pytest.mark.parametrize("appended", [[], [1.0], [1.0, 1.0, 1.0]])
def test_outputs_at_one_moment_have_no_rate(appended: list[float]) -> None:
    with pytest.raises(ValueError, match="no duration"):
        figures.window_of(appended)


# -- samples, ratios, flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moment", "value"), [(0, 10), (1, 10), (2, 15), (3, 20), (9, 20)])
def test_between_two_samples_is_a_straight_line(moment: float, value: float) -> None:
    assert figures.at([(1, 10), (3, 20)], moment) == value


def test_a_ratio_to_nothing_is_refused() -> None:
    assert figures.ratio(3, 2) == 1.5
    with pytest.raises(ValueError, match="says nothing"):
        figures.ratio(1, 0)


def test_growth_is_in_per_cent_of_before() -> None:
    assert figures.growth_percent(20, 22) == pytest.approx(10)


def test_a_flow_is_timed_from_its_beginning_over_all_workers() -> None:
    progress = [(10.0, 0), (11.0, 600), (12.0, 1000)]
    cpu = [[(0.0, 0.0), (10.0, 5.0), (12.0, 6.0)], [(10.0, 1.0), (12.0, 1.5)]]

    flow = flow_of(10.0, progress, cpu, 77)

    assert flow.events_per_s == 500
    assert flow.cpu_us == pytest.approx(1500)
    assert flow.rss_mb == 77


@pytest.mark.parametrize("progress", [[(1.0, 50)], [(2.0, 0)]])
def test_a_flow_that_was_over_at_once_is_refused(progress: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="too few"):
        flow_of(1.0, progress, [[(0.0, 0.0)]], 1)


def test_a_window_knows_its_length() -> None:
    assert Window(1.0, 3.5, 1.0).seconds == 2.5

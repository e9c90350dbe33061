"""Each payload file gives the events that the file beside it expects."""

import pytest

from streams.providers import PROVIDERS
from tests.providers.cases import ACCOUNT, CASES, PAYLOADS, RECEIVED_AT, Case, expectation, expected, outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider}/{case.name}")
def test_a_payload_gives_the_events_that_its_file_expects(case: Case) -> None:
    assert case.expected_path.exists(), f"write {case.expected_path.name}"

    found = outcome(case.provider, case.body)

    assert expectation(found) == expected(case)
    for event in found.events:
        assert (event.provider, event.account, event.received_at) == (case.provider, ACCOUNT, RECEIVED_AT)


def test_every_expectation_belongs_to_a_payload() -> None:
    payloads = {case.expected_path for case in CASES}

    assert set(PAYLOADS.glob("*/*.events.json")) == payloads


def test_every_provider_has_payloads() -> None:
    assert {case.provider for case in CASES} == set(PROVIDERS)

"""What JSON texts cost while they are kept."""

import tracemalloc

from streams import codecs

STATUS = {"advice": {"meaning": "x" * 200, "what_to_do": "y" * 200}, "reason": "z" * 120, "attempts": [1, 2, 3]}


def test_a_text_that_is_kept_takes_the_memory_of_its_length_and_not_that_of_the_encoders_buffer() -> None:
    tracemalloc.start()
    try:
        kept = [codecs.encode(STATUS) for _ in range(1_000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.5 * sum(map(len, kept))  # orjson's own texts: 7 times

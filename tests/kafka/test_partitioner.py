import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.partitioner import murmur2, partition_of

KEYS = st.binary(max_size=100) | st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(
    str.encode
)


@given(KEYS)
def test_the_hash_is_that_of_aiokafka_for_any_bytes(key: bytes) -> None:
    assert murmur2(key) & 0xFFFFFFFF == murmur2_of_aiokafka(key) & 0xFFFFFFFF


@given(KEYS, st.integers(1, 64))
def test_the_partition_is_that_of_aiokafkas_default_partitioner_for_any_key(key: bytes, partitions: int) -> None:
    everything = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everything, everything)


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # from Kafka's own test, org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed 32-bit numbers
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_kafkas_own_clients(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


@given(st.lists(KEYS, min_size=1), st.integers(1, 64))
def test_every_partition_that_is_named_exists(keys: list[bytes], partitions: int) -> None:
    assert all(0 <= partition_of(key, partitions) < partitions for key in keys)

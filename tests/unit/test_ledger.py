"""The ledger between Faust's small offsets and Kinesis' large numbers."""

from telemill.kinesis import records
from telemill.kinesis.ledger import Ledger
from telemill.kinesis.records import Chunk, Record, Shard

SHARD = Shard("readings", 1, "shardId-000000000000")
BASE = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898


def chunk(*gaps: int, ends_shard: bool = False) -> Chunk:
    """Records whose sequence numbers lie `gaps` above the base."""
    held = [Record(str(BASE + gap), 0, b"x", "key") for gap in gaps]
    return Chunk(SHARD, held, 0, ends_shard)


def test_offsets_are_dense_from_one_whatever_the_sequence_numbers() -> None:
    """A gap of 10**40 between sequence numbers is a step of one for Faust."""
    ledger = Ledger()
    assert [ledger.deliver(chunk(gap)) for gap in (0, 1, 10**40)] == [1, 2, 3]


def test_the_watermark_stops_at_the_first_chunk_not_acknowledged() -> None:
    """Acknowledgements out of order never move the position past an open chunk."""
    ledger = Ledger()
    for gap in (10, 20, 30):
        ledger.deliver(chunk(gap, gap + 5))
    ledger.ack(3)
    ledger.ack(1)
    assert (ledger.watermark, ledger.position) == (1, str(BASE + 15))
    ledger.ack(2)
    assert (ledger.watermark, ledger.position) == (3, str(BASE + 35))


def test_an_acknowledgement_counts_once() -> None:
    """The second ack of a chunk, and one of an unknown offset, return nothing to free."""
    ledger = Ledger()
    delivered = chunk(1)
    ledger.deliver(delivered)
    assert ledger.ack(1) is delivered
    assert ledger.ack(1) is None
    assert ledger.ack(7) is None


def test_what_faust_dropped_is_numbered_again_in_order() -> None:
    """After a rebalance, dropped chunks come again under new offsets; the old ones are void."""
    ledger = Ledger()
    chunks = [chunk(gap) for gap in (1, 2, 3)]
    for one in chunks:
        ledger.deliver(one)
    ledger.ack(1)
    assert ledger.redeliver() == [(4, chunks[1]), (5, chunks[2])]
    assert ledger.ack(2) is None
    assert ledger.watermark == 1


def test_a_chunk_an_agent_works_on_keeps_its_offset() -> None:
    """What is begun is not handed out twice, and its late ack still counts."""
    ledger = Ledger()
    for gap in (1, 2):
        ledger.deliver(chunk(gap))
    assert [offset for offset, _ in ledger.redeliver(begun={1})] == [3]
    ledger.ack(1)
    ledger.ack(3)
    assert (ledger.watermark, ledger.position) == (3, str(BASE + 2))


def test_the_end_of_a_shard_is_a_position() -> None:
    """After the chunk that ends the shard the position is SHARD_END, with records or without."""
    for last in (chunk(5, ends_shard=True), chunk(ends_shard=True)):
        ledger = Ledger()
        ledger.deliver(chunk(1))
        ledger.deliver(last)
        ledger.ack(1)
        ledger.ack(2)
        assert ledger.position == records.SHARD_END

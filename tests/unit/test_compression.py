"""telemill.codec.compression: every frame, nothing beyond the limit, one kind of error."""

import gzip
import threading
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard

from telemill import errors
from telemill.codec import compression

MIB = 2**20
TEXT = b'{"DeviceId":1}\n' * 1000


def zstd_unsized(content: bytes) -> bytes:
    """A frame that does not say its content size, as streaming compressors write it."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(content) + compressor.flush()


def zstd_bomb(mebibytes: int) -> bytes:
    """Zeros, compressed a piece at a time."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return b"".join(compressor.compress(bytes(MIB)) for _ in range(mebibytes)) + compressor.flush()


def gzip_bomb(mebibytes: int) -> bytes:
    """Zeros, compressed a piece at a time."""
    compressor = zlib.compressobj(wbits=31)
    return b"".join(compressor.compress(bytes(MIB)) for _ in range(mebibytes)) + compressor.flush()


COMPRESSORS = pytest.mark.parametrize(
    "compress", [compression.zstd_compress, zstd_unsized, gzip.compress], ids=lambda f: f.__name__
)


@COMPRESSORS
@pytest.mark.parametrize("content", [b"", b"x", TEXT, bytes(3 * MIB)], ids=len)
def test_decompress_inverts_each_format(compress: Callable[[bytes], bytes], content: bytes) -> None:
    """What zstd or gzip wrote comes back, with or without a content size."""
    assert compression.decompress(compress(content)) == content


@COMPRESSORS
def test_all_frames_are_read(compress: Callable[[bytes], bytes]) -> None:
    """Concatenated frames or members, empty ones too, are one content."""
    assert compression.decompress(compress(TEXT) + compress(b"") + compress(b"end")) == (
        TEXT + b"end"
    )


def test_skippable_frames_are_skipped() -> None:
    """A zstd skippable frame between frames holds no content."""
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    frame = compression.zstd_compress(TEXT)
    assert compression.decompress(frame + skippable + frame) == TEXT + TEXT


@pytest.mark.parametrize("data", [b"", b"{}", b"\x28\xb5", b"\x1f", b"\xff\xfe"])
def test_other_bytes_stay_as_they_are(data: bytes) -> None:
    """What has no magic is not touched."""
    assert compression.decompress(data) == data


@COMPRESSORS
def test_every_truncation_is_a_decode_error(compress: Callable[[bytes], bytes]) -> None:
    """Wherever compressed bytes are cut, the record is broken, never shorter."""
    data = compress(TEXT)
    for size in range(4, len(data)):
        with pytest.raises(errors.DecodeError):
            compression.decompress(data[:size])


@COMPRESSORS
def test_trailing_bytes_are_a_decode_error(compress: Callable[[bytes], bytes]) -> None:
    """Something else after the last frame is not ignored."""
    with pytest.raises(errors.DecodeError):
        compression.decompress(compress(TEXT) + b"{}")


def test_corrupt_gzip_is_a_decode_error() -> None:
    """The CRC of a gzip member is checked."""
    data = bytearray(gzip.compress(TEXT))
    data[-6] ^= 1
    with pytest.raises(errors.DecodeError, match="gzip"):
        compression.decompress(bytes(data))


def test_corrupt_zstd_is_a_decode_error() -> None:
    """The content checksum of a zstd frame is checked where there is one."""
    data = bytearray(compression.zstd_compress(TEXT, checksum=True))
    data[-1] ^= 1
    with pytest.raises(errors.DecodeError, match="zstd"):
        compression.decompress(bytes(data))


@COMPRESSORS
def test_the_limit_is_inclusive(compress: Callable[[bytes], bytes]) -> None:
    """Exactly `limit` bytes are taken, one more is not."""
    assert compression.decompress(compress(TEXT), limit=len(TEXT)) == TEXT
    with pytest.raises(errors.RecordTooLargeError):
        compression.decompress(compress(TEXT), limit=len(TEXT) - 1)


def test_the_limit_holds_for_plain_bytes_too() -> None:
    """A caller need not look whether a record was compressed."""
    with pytest.raises(errors.RecordTooLargeError):
        compression.decompress(TEXT, limit=len(TEXT) - 1)


@pytest.mark.parametrize(
    "bomb",
    [zstd_bomb(256), gzip_bomb(64), compression.zstd_compress(bytes(MIB)) * 64],
    ids=["zstd", "gzip", "zstd frames"],
)
def test_a_bomb_costs_no_more_than_the_limit_and_a_piece(bomb: bytes) -> None:
    """A small record that means a large one is refused before it is made."""
    tracemalloc.start()
    try:
        with pytest.raises(errors.RecordTooLargeError):
            compression.decompress(bomb, limit=2 * MIB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 24 * MIB


def test_a_claimed_content_size_is_not_believed() -> None:
    """A frame that claims a huge content is refused by its header alone."""
    claim = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(errors.RecordTooLargeError):
        compression.decompress(claim)


def test_a_huge_window_is_refused() -> None:
    """A frame that asks the decoder for a window above 8 MiB is too large."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(errors.RecordTooLargeError, match="window"):
        compression.decompress(compressor.compress(TEXT) + compressor.flush())


def test_a_record_full_of_empty_members_is_read() -> None:
    """A record with no content but tens of thousands of members is empty."""
    assert compression.decompress(gzip.compress(b"") * 20_000) == b""
    assert compression.decompress(compression.zstd_compress(b"") * 50_000) == b""


def test_threads_do_not_share_a_compressor() -> None:
    """The same calls in several threads at once give the same bytes."""
    wrong: list[int] = []

    def work(number: int) -> None:
        content = bytes([number]) * 10_000
        backs = [compression.decompress(compression.zstd_compress(content)) for _ in range(200)]
        wrong.extend(number for back in backs if back != content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

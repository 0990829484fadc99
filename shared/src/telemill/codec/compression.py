"""zstd and gzip, bounded: a record cannot make us allocate more than a limit.

What a record holds is told from its first bytes (RFC 8878 section 3.1.1, RFC 1952 section 2.3.1).
Both formats allow several frames or members one after the other; all are read.
"""

import io
import threading
import zlib

import zstandard

from telemill import errors

MAX_DECOMPRESSED_BYTES = 64 * 2**20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"

_MAX_WINDOW_BYTES = 8 * 2**20
"""What RFC 8878 section 3.1.1.1.2 asks every decoder to support; more is refused."""

_ZSTD_PIECE_BYTES = 256
"""Four bytes of zstd can mean 128 KiB (an RLE block), so one piece yields 8 MiB at the most."""

_GZIP_PIECE_BYTES = 4096
"""Small, because what a piece holds after the end of a member is copied."""

_GZIP_WBITS = 31
_local = threading.local()


def decompress(data: bytes, *, limit: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The plain bytes of a record: decompressed when its magic says so, else as they are.

    Args:
        data: Any bytes.
        limit: Most bytes of the result. Checked while decompressing.

    Returns:
        At most `limit` bytes; `data` itself when it is neither zstd nor gzip.

    Raises:
        RecordTooLargeError: The result, or the memory its zstd window asks for, is too large.
        DecodeError: The compressed bytes are truncated, corrupt or followed by something else.
    """
    if data.startswith(ZSTD_MAGIC):
        return zstd_decompress(data, limit=limit)
    if data.startswith(GZIP_MAGIC):
        return _gunzip(data, limit)
    if len(data) > limit:
        raise _too_large(limit)
    return data


def zstd_compress(data: bytes | memoryview, level: int = 1, *, checksum: bool = False) -> bytes:
    """One zstd frame with its content size.

    Args:
        data: What to compress.
        level: zstd level; a speed and size trade, any decoder reads all.
        checksum: Append the 32-bit content checksum that decoders verify.
    """
    return _compressor(level, checksum).compress(data)


def zstd_decompress(data: bytes | memoryview, *, limit: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The content of one or more zstd frames.

    Raises:
        RecordTooLargeError: More than `limit` bytes, or a window above 8 MiB.
        DecodeError: Truncated, corrupt or followed by something else.
    """
    size = _content_size(data)
    if size > limit:
        raise _too_large(limit)
    if size > 0:
        try:
            return _decompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError:
            pass  # several frames, or broken: the loop below tells
    return _zstd_frames(memoryview(data), limit)


def _content_size(data: bytes | memoryview) -> int:
    """What the first frame's header says of its content: 0 empty, -1 unknown."""
    try:
        return zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise errors.DecodeError(f"broken zstd frame: {error}") from error


def _zstd_frames(view: memoryview, limit: int) -> bytes:
    output = io.BytesIO()
    position = 0
    while position < len(view):
        frame = _decompressor().decompressobj()
        while not frame.eof:
            piece = view[position : position + _ZSTD_PIECE_BYTES]
            if not piece:
                raise errors.DecodeError("truncated zstd frame")
            output.write(_zstd_piece(frame, piece))
            if output.tell() > limit:
                raise _too_large(limit)
            position += len(piece) - len(frame.unused_data)
    return output.getvalue()


def _zstd_piece(frame: "zstandard.ZstdDecompressionObj", piece: memoryview) -> bytes:
    try:
        return frame.decompress(piece)
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise errors.RecordTooLargeError("zstd window above 8 MiB") from error
        raise errors.DecodeError(f"broken zstd frame: {error}") from error


def _gunzip(data: bytes, limit: int) -> bytes:
    view = memoryview(data)
    output = io.BytesIO()
    position = 0
    while position < len(view):
        member = zlib.decompressobj(wbits=_GZIP_WBITS)
        while not member.eof:
            piece = view[position : position + _GZIP_PIECE_BYTES]
            if not piece:
                raise errors.DecodeError("truncated gzip member")
            output.write(_gzip_piece(member, piece, limit - output.tell() + 1))
            if output.tell() > limit:
                raise _too_large(limit)
            position += len(piece) - len(member.unused_data) - len(member.unconsumed_tail)
    return output.getvalue()


def _gzip_piece(member: "zlib._Decompress", piece: memoryview, max_bytes: int) -> bytes:
    try:
        return member.decompress(piece, max_bytes)
    except zlib.error as error:
        raise errors.DecodeError(f"broken gzip member: {error}") from error


def _too_large(limit: int) -> errors.RecordTooLargeError:
    return errors.RecordTooLargeError(f"more than {limit} bytes after decompression")


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's: a decompressor must not be used by two threads at once."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        _local.decompressor = found
    return found


def _compressor(level: int, checksum: bool) -> zstandard.ZstdCompressor:
    """This thread's compressor of a kind: building one costs more than compressing a reading."""
    kinds: dict[tuple[int, bool], zstandard.ZstdCompressor] = _local.__dict__.setdefault(
        "compressors", {}
    )
    if (level, checksum) not in kinds:
        kinds[level, checksum] = zstandard.ZstdCompressor(level=level, write_checksum=checksum)
    return kinds[level, checksum]

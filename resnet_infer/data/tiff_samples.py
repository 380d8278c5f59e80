"""The samples of a TIFF as arrays, a few rows of blocks at a time.

libtiff, through PIL, only decompresses: it is given the blocks as strips of a plain picture of one sample per pixel.
Predictors, byte order, planes, tiles and depths are undone here, so that they do not depend on which forms PIL reads.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.kinds import UnsupportedError
from resnet_infer.data.tiff import Directory
from resnet_infer.data.tiff_layout import COMPRESSIONS, FLOAT, SIGNED, YCBCR, Layout

Samples = NDArray[np.generic]
GROUP_BYTES = 2**22
"""About how much is decompressed at a time; a block is never parted."""
MAX_BLOCK_BYTES = 2**31
"""Most bytes of a row of blocks."""
SMALL_BLOCKS = 2**25
"""A row of blocks of so many bytes may be larger than the picture, as small pictures in large tiles are."""
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
"""Bytes with their bits in the other order."""
_ZSTD = bytes.fromhex("28b52ffd200109000061")
"""The letter a, by Zstandard."""


def row_groups(content: bytes, directory: Directory, layout: Layout, wanted: int) -> Iterator[tuple[int, Samples]]:
    """The first rows and the samples (rows, width, wanted) of groups of rows, from the top.

    Of a pixel's samples the first `wanted` are given. The dtype is the narrowest that holds a sample: uint8 or uint16
    of up to 16 bits, else that of the file. Colours that are stored at fewer places than light are repeated. Raises
    `ValueError` and the errors of decoders for damaged files.
    """
    blocks = _Blocks(content, directory, layout)
    planes = wanted if layout.planar else 1
    step = max(GROUP_BYTES // (blocks.row_bytes * blocks.rows * layout.across), 1)
    for first in range(0, layout.down, step):
        last = min(first + step, layout.down)
        parts = [blocks.read(plane, first, last) for plane in range(planes)]
        group = parts[0][..., :wanted] if planes == 1 else np.concatenate(parts, axis=-1)
        yield first * layout.block_height, group


class _Blocks:
    """Reads blocks and joins them."""

    def __init__(self, content: bytes, directory: Directory, layout: Layout) -> None:
        self._content, self._directory, self._layout = content, directory, layout
        self._way = COMPRESSIONS[layout.compression]
        self._parts = 1 if layout.planar else layout.samples
        """Samples side by side."""
        self._sampled = self._way != "jpeg" and layout.subsampling != (1, 1)
        if self._sampled:
            across, down = layout.subsampling
            self.rows = -(-layout.block_height // down)
            self.row_bytes = -(-layout.block_width // across) * (across * down + 2)
        else:
            self.rows = layout.block_height
            bits = 8 if self._way == "jpeg" else layout.bits
            self.row_bytes = -(-layout.block_width * self._parts * bits // 8)
        size = self.rows * self.row_bytes * layout.across
        if size > max(2 * layout.width * layout.height * layout.samples * layout.bits // 8, SMALL_BLOCKS):
            raise ValueError("its blocks are far larger than the picture")
        if size > MAX_BLOCK_BYTES:
            raise MemoryError("blocks of a TIFF")
        if sum(layout.counts) > len(content) + len(layout.counts):
            raise ValueError("its blocks overlap")

    def read(self, plane: int, first: int, last: int) -> Samples:
        """The samples (rows, width, parts) of the rows of blocks from `first` to before `last`."""
        layout = self._layout
        begin = (plane * layout.down + first) * layout.across
        numbers = range(begin, begin + (last - first) * layout.across)
        rows = self.rows * len(numbers)
        if not layout.tiled and last == layout.down:  # the last strip may be shorter
            left = layout.height - (layout.down - 1) * layout.block_height
            rows -= self.rows - (-(-left // layout.subsampling[1]) if self._sampled else left)
        samples = self._samples(numbers, rows)
        if layout.tiled:
            tiles = samples.reshape(last - first, layout.across, layout.block_height, layout.block_width, -1)
            samples = tiles.swapaxes(1, 2).reshape(
                len(numbers) // layout.across * layout.block_height, -1, tiles.shape[-1]
            )
        top = first * layout.block_height
        return samples[: layout.height - top, : layout.width]

    def _samples(self, numbers: Sequence[int], rows: int) -> Samples:
        """The samples (rows, block width, parts) of blocks, one below the other."""
        layout = self._layout
        if self._way == "jpeg":
            return self._jpeg(numbers, rows)
        if self._way == "fax":
            levels = np.asarray(self._by_libtiff(numbers, layout.block_width, rows, bits=1))
            return levels.astype(np.uint8)[..., None]
        stored = self._bytes(numbers, rows)
        if self._sampled:
            return self._repeat_colours(stored)
        if layout.predictor == 3:
            return self._undo_float_predictor(stored)
        samples = self._unpack(stored).reshape(rows, layout.block_width, self._parts)
        if layout.predictor == 2:
            whole = samples.view(f"u{samples.itemsize}")
            samples = np.add.accumulate(whole, axis=1, dtype=whole.dtype).view(samples.dtype)
        return samples

    def _data(self, number: int, size: int) -> memoryview:
        """The stored bytes of a block; where the file does not say how many, `size`, or all that follow."""
        start, counts = self._layout.offsets[number], self._layout.counts
        if self._way != "none":
            size = counts[number] if counts else len(self._content)
        elif start + size > len(self._content):  # not counted by the tag, which many writers get wrong
            raise ValueError("image file is truncated")
        stop = min(start + size, len(self._content))
        if start >= stop:
            raise ValueError("image file is truncated")
        return memoryview(self._content)[start:stop]

    def _bytes(self, numbers: Sequence[int], rows: int) -> NDArray[np.uint8]:
        """The decompressed bytes (rows, row_bytes) of blocks."""
        if self._way in ("libtiff", "zstd"):
            return np.asarray(self._by_libtiff(numbers, self.row_bytes, rows))
        stored = np.empty((rows, self.row_bytes), np.uint8)
        for index, number in enumerate(numbers):
            target = stored[index * self.rows : (index + 1) * self.rows]
            data: bytes | memoryview = self._data(number, target.size)
            if self._layout.reversed_bits:
                data = _REVERSED[np.frombuffer(data, np.uint8)].tobytes()
            if self._way == "deflate":
                data = zlib.decompressobj().decompress(data, target.size)
            elif self._way == "lzma":
                data = lzma.LZMADecompressor().decompress(data, target.size)
            if len(data) < target.size:
                raise ValueError("image file is truncated")
            target[:] = np.frombuffer(data, np.uint8, target.size).reshape(target.shape)
        return stored

    def _by_libtiff(
        self, numbers: Sequence[int], width: int, rows: int, bits: int = 8, parts: int = 1, photometric: int = 1
    ) -> Image.Image:
        """Blocks as the strips of a picture, decompressed by libtiff."""
        layout = self._layout
        data = [bytes(self._data(number, 0)) for number in numbers]
        tags: dict[int, tuple[int, Sequence[int]]] = {
            256: (4, [width]),
            257: (4, [rows]),
            258: (3, [bits] * parts),
            259: (3, [layout.compression]),
            262: (3, [photometric]),
            266: (3, [2 if layout.reversed_bits and self._way != "jpeg" else 1]),
            273: (4, []),
            277: (3, [parts]),
            278: (4, [self.rows]),
            279: (4, [len(block) for block in data]),
        }
        if parts == 2:
            tags[338] = (3, [2])
        for number in (292, 293) if self._way == "fax" else (530,) if photometric == YCBCR else ():
            if number in layout.tags:
                tags[number] = (layout.tags[number].type, self._directory.numbers(layout.tags[number]))
        tables = self._directory.content(layout.tags[347]) if self._way == "jpeg" and 347 in layout.tags else b""
        try:
            return _decoded(_plain_tiff(tags, data, tables), (width, rows))
        except OSError:
            if self._way == "zstd" and not _has_zstd():
                raise UnsupportedError("TIFF with Zstandard, which PIL was built without,") from None
            raise

    def _jpeg(self, numbers: Sequence[int], rows: int) -> Samples:
        from resnet_infer.data.jpeg import unsupported_coding

        for number in numbers[:1]:
            if what := unsupported_coding(bytes(self._data(number, 0))):
                raise UnsupportedError(f"TIFF with {what}")
        photometric = {1: 1, 2: 1, 3: YCBCR if self._layout.photometric == YCBCR else 2, 4: 5}[self._parts]
        width = self._layout.block_width
        picture = self._by_libtiff(numbers, width, rows, parts=self._parts, photometric=photometric)
        return np.asarray(picture).reshape(rows, width, self._parts)

    def _unpack(self, stored: NDArray[np.uint8]) -> Samples:
        """Whole samples (rows, samples) from the bytes of rows."""
        layout = self._layout
        bits, count = layout.bits, layout.block_width * self._parts
        if bits in (8, 16, 32, 64):
            kind = {FLOAT: "f", SIGNED: "i"}.get(layout.format, "u")
            native = np.dtype(f"{kind}{bits // 8}")
            whole: Samples = stored.view(native.newbyteorder(layout.order)).astype(native, copy=False)
            return whole
        if bits in (1, 2, 4):
            shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
            apart = np.unpackbits(stored, axis=1) if bits == 1 else stored[..., None] >> shifts & (2**bits - 1)
            return apart.reshape(len(stored), -1)[:, :count]
        digits = np.unpackbits(stored, axis=1)[:, : count * bits].reshape(len(stored), count, bits)
        samples = np.zeros(digits.shape[:2], np.uint8 if bits < 8 else np.uint16)
        for place in range(bits):
            samples = samples << 1 | digits[..., place]
        return samples

    def _undo_float_predictor(self, stored: NDArray[np.uint8]) -> Samples:
        """Adobe's technical note 3: bytes of equal weight lie together, and differences are stored."""
        layout = self._layout
        size = layout.bits // 8
        steps = stored.reshape(len(stored), -1, self._parts)
        weights = np.add.accumulate(steps, axis=1, dtype=np.uint8).reshape(len(stored), size, -1).swapaxes(1, 2)
        floats = np.ascontiguousarray(weights).view(f">f{size}")[..., 0].astype(f"f{size}")
        return floats.reshape(len(stored), layout.block_width, self._parts)

    def _repeat_colours(self, stored: NDArray[np.uint8]) -> Samples:
        """YCbCr (rows, width, 3) from units of several Y, one Cb and one Cr (TIFF 6.0, section 21)."""
        across, down = self._layout.subsampling
        units = stored.reshape(len(stored), -1, across * down + 2)
        light = units[..., :-2].reshape(*units.shape[:2], down, across).swapaxes(1, 2)
        samples = np.empty((len(stored), down, units.shape[1], across, 3), np.uint8)
        samples[..., 0] = light
        samples[..., 1:] = units[:, None, :, None, -2:]
        rows = samples.reshape(len(stored) * down, -1, 3)
        # Of each block the rows and columns beyond its size are filled up.
        height = self._layout.block_height
        if self.rows * down != height:
            kept = np.arange(len(rows)) % (self.rows * down) < height
            rows = rows[kept]
        return rows[:, : self._layout.block_width]


def _plain_tiff(tags: dict[int, tuple[int, Sequence[int]]], blocks: Sequence[bytes], tables: bytes) -> bytes:
    """A little-endian TIFF of these strips. `tables` are those that JPEG strips share."""
    position, offsets = 8 + len(tables), []
    for block in blocks:
        offsets.append(position)
        position += len(block)
    entries, beyond = b"", b""
    everything: dict[int, tuple[int, bytes]] = {
        number: (kind, struct.pack(f"<{len(values)}{'H' if kind == 3 else 'L'}", *values))
        for number, (kind, values) in {**tags, 273: (4, offsets)}.items()
    }
    if tables:
        everything[347] = (7, tables)
    start = position + 2 + 12 * len(everything) + 4
    for number, (kind, values_) in sorted(everything.items()):
        count = len(values_) // {3: 2, 4: 4, 7: 1}[kind]
        if len(values_) <= 4:
            field = values_.ljust(4, b"\0")
        else:
            field = struct.pack("<L", start + len(beyond))
            beyond += values_
        entries += struct.pack("<HHL", number, kind, count) + field
    directory = struct.pack("<H", len(everything)) + entries + bytes(4)
    return b"".join((b"II*\0", struct.pack("<L", position), tables, *blocks, directory, beyond))


def _decoded(file: bytes, size: tuple[int, int]) -> Image.Image:
    from PIL.TiffImagePlugin import TiffImageFile

    picture = TiffImageFile(io.BytesIO(file))
    picture.im = Image.new(picture.mode, size).im  # given its memory, it does not warn about the size
    picture.load()
    return picture


def _has_zstd() -> bool:
    """Whether libtiff, as PIL has it, decompresses Zstandard."""
    tags = {256: 1, 257: 1, 258: 8, 259: 50000, 262: 1, 277: 1, 278: 1, 279: len(_ZSTD)}
    try:
        _decoded(_plain_tiff({number: (4, [value]) for number, value in tags.items()}, [_ZSTD], b""), (1, 1))
    except OSError:
        return False
    return True

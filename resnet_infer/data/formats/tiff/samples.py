"""Read the samples of a TIFF as arrays, some rows at a time.

libtiff, through PIL, only decompresses: it gets the blocks as strips of a plain image with one sample per pixel.
Predictors, byte order, planes, tiles and bit depths are handled here, so they do not depend on the forms that PIL
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.kinds import UnsupportedError
from resnet_infer.data.formats.tiff.directory import Directory
from resnet_infer.data.formats.tiff.layout import COMPRESSIONS, FLOAT, SIGNED, YCBCR, Layout
from resnet_infer.data.formats.tiff.unpack import READERS, decoded, from_picture, has_zstd, plain_tiff

Samples = NDArray[np.generic]
GROUP_BYTES = 2**22
"""Approximate number of bytes of small blocks that are decompressed at a time."""
SLICE_BYTES = 2**20
"""Approximate number of bytes of a row of larger blocks that are unpacked at a time."""
MAX_BLOCK_BYTES = 2**31
"""Most bytes of a row of blocks."""
SMALL_BLOCKS = 2**25
"""Bytes of a row of blocks up to which it may be larger than the image, as for small images in large tiles."""


class Rows(NamedTuple):
    """Hold some rows of an image."""

    top: int
    """First row, from 0."""
    samples: Samples
    """Samples, (rows, width, samples)."""
    group: tuple[int, int]
    """First row, and number of rows, of the whole blocks that these rows belong to."""


def row_groups(content: bytes, directory: Directory, layout: Layout, wanted: int) -> Iterator[Rows]:
    """Yield the samples of all rows, from the top.

    The first `wanted` samples of a pixel are given. The dtype is the narrowest that holds a sample: uint8 or uint16 for
    up to 16 bits, else that of the file. Subsampled colours are repeated. Raises `ValueError` and the errors of
    decoders for damaged files.
    """
    blocks = _Blocks(content, directory, layout)
    planes = range(wanted if layout.planar else 1)
    size = blocks.row_bytes * blocks.rows * layout.across
    step = max(GROUP_BYTES // size, 1)
    for first in range(0, layout.down, step):
        last = min(first + step, layout.down)
        top = first * layout.block_height
        group = top, min(last * layout.block_height, layout.height) - top
        parts: Iterable[tuple[Samples, ...]]
        if size <= GROUP_BYTES:
            parts = [tuple(blocks.read(plane, first, last) for plane in planes)]
        else:
            parts = zip(*(blocks.slices(plane, first) for plane in planes), strict=True)
        for same in parts:
            yield Rows(top, same[0][..., :wanted] if len(same) == 1 else np.concatenate(same, axis=-1), group)
            top += len(same[0])


class _Blocks:
    """Read blocks and join them."""

    def __init__(self, content: bytes, directory: Directory, layout: Layout) -> None:
        self._content, self._directory, self._layout = content, directory, layout
        self._way = COMPRESSIONS[layout.compression]
        self._parts = 1 if layout.planar else layout.samples
        """Number of samples side by side."""
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
        if layout.counts.sum(dtype=float) > len(content) + len(layout.counts):
            raise ValueError("its blocks overlap")

    def read(self, plane: int, first: int, last: int) -> Samples:
        """Read the rows of blocks from `first` to before `last`: samples (rows, width, parts)."""
        layout = self._layout
        begin = (plane * layout.down + first) * layout.across
        numbers = range(begin, begin + (last - first) * layout.across)
        rows = self.rows * (len(numbers) - 1) + self._last_rows(last)
        samples = self._samples(numbers, rows)
        if layout.tiled:
            tiles = samples.reshape(last - first, layout.across, layout.block_height, layout.block_width, -1)
            samples = tiles.swapaxes(1, 2).reshape(
                len(numbers) // layout.across * layout.block_height, -1, tiles.shape[-1]
            )
        top = first * layout.block_height
        return samples[: layout.height - top, : layout.width]

    def slices(self, plane: int, row: int) -> Iterator[Samples]:
        """Read one row of blocks, some rows at a time."""
        layout = self._layout
        begin = (plane * layout.down + row) * layout.across
        rows = self._last_rows(row + 1)
        takes = [self._open(number, rows) for number in range(begin, begin + layout.across)]
        step = max(SLICE_BYTES // (self.row_bytes * layout.across), 1)
        left = layout.height - row * layout.block_height
        for first in range(0, rows, step):  # including rows below the image, which must exist
            parts = [self._finish(take(min(step, rows - first)), first) for take in takes]
            samples = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))[:left, : layout.width]
            if left > 0:
                yield samples
            left -= len(samples)

    def _last_rows(self, last: int) -> int:
        """Return the rows of the blocks in the row before `last`. The last strip may be shorter."""
        layout = self._layout
        if layout.tiled or last < layout.down:
            return self.rows
        left = layout.height - (layout.down - 1) * layout.block_height
        return -(-left // layout.subsampling[1]) if self._sampled else left

    def _samples(self, numbers: Sequence[int], rows: int) -> Samples:
        """Read blocks, one below the other: samples (rows, block width, parts)."""
        if self._way in ("jpeg", "fax", "libtiff", "zstd"):
            return self._finish(np.asarray(self._picture(numbers, rows)))
        stored = np.empty((rows, self.row_bytes), np.uint8)
        for index, number in enumerate(numbers):
            target = stored[index * self.rows : (index + 1) * self.rows]
            target[:] = self._open(number, len(target))(len(target))
        return self._finish(stored)

    def _open(self, number: int, rows: int) -> Callable[[int], NDArray[np.generic]]:
        """Return a function that gives the next rows of a block, decompressed: (rows, row_bytes), or samples."""
        if self._way in ("jpeg", "fax", "libtiff", "zstd"):
            return from_picture(self._picture([number], rows))
        data = self._data(number, rows * self.row_bytes)
        read = READERS[self._way](data, self._layout.reversed_bits)

        def take(count: int) -> NDArray[np.generic]:
            """Give the next `count` rows. Raises `ValueError` if the data end too early."""
            size = count * self.row_bytes
            found = read(size)
            if len(found) < size:
                raise ValueError("image file is truncated")
            return np.frombuffer(found, np.uint8).reshape(count, self.row_bytes)

        return take

    def _finish(self, stored: NDArray[np.generic], first: int = 0) -> Samples:
        """Convert decompressed rows to samples (rows, block width, parts). The first row is row `first` of a block."""
        layout = self._layout
        if self._way in ("jpeg", "fax"):
            return stored.astype(np.uint8, copy=False).reshape(len(stored), layout.block_width, self._parts)
        octets = stored.view(np.uint8)
        if self._sampled:
            return self._repeat_colours(octets, first)
        if layout.predictor == 3:
            return self._undo_float_predictor(octets)
        samples = self._unpack(octets).reshape(len(octets), layout.block_width, self._parts)
        if layout.predictor == 2:
            whole = samples.view(f"u{samples.itemsize}")
            samples = np.add.accumulate(whole, axis=1, dtype=whole.dtype).view(samples.dtype)
        return samples

    def _data(self, number: int, size: int) -> memoryview:
        """Return the stored bytes of a block.

        If the file does not state their number, return `size`, or all that follow.
        """
        start, counts = int(self._layout.offsets[number]), self._layout.counts
        if self._way != "none":
            size = int(counts[number]) if len(counts) else len(self._content)
        elif start + size > len(self._content):  # the size is computed, because many writers get the tag wrong
            raise ValueError("image file is truncated")
        stop = min(start + size, len(self._content))
        if start >= stop:
            raise ValueError("image file is truncated")
        return memoryview(self._content)[start:stop]

    def _picture(self, numbers: Sequence[int], rows: int) -> Image.Image:
        """Decompress blocks with libtiff, one below the other."""
        if self._way == "jpeg":
            return self._jpeg(numbers, rows)
        if self._way == "fax":
            return self._by_libtiff(numbers, self._layout.block_width, rows, bits=1)
        return self._by_libtiff(numbers, self.row_bytes, rows)

    def _by_libtiff(
        self, numbers: Sequence[int], width: int, rows: int, bits: int = 8, parts: int = 1, photometric: int = 1
    ) -> Image.Image:
        """Decompress blocks with libtiff, as the strips of an image."""
        layout = self._layout
        data = [self._data(number, 0) for number in numbers]
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
        tables = bytes(self._directory.content(layout.tags[347])) if self._way == "jpeg" and 347 in layout.tags else b""
        try:
            return decoded(plain_tiff(tags, data, tables), (width, rows))
        except OSError:
            if self._way == "zstd" and not has_zstd():
                raise UnsupportedError("TIFF with Zstandard, which PIL was built without,") from None
            raise

    def _jpeg(self, numbers: Sequence[int], rows: int) -> Image.Image:
        """Decompress blocks of JPEG. Raises `UnsupportedError` for a coding that is not decoded."""
        from resnet_infer.data.formats.jpeg_header import unsupported_coding

        for number in numbers[:1]:
            if what := unsupported_coding(bytes(self._data(number, 0))):
                raise UnsupportedError(f"TIFF with {what}")
        photometric = {1: 1, 2: 1, 3: YCBCR if self._layout.photometric == YCBCR else 2, 4: 5}[self._parts]
        width = self._layout.block_width
        return self._by_libtiff(numbers, width, rows, parts=self._parts, photometric=photometric)

    def _unpack(self, stored: NDArray[np.uint8]) -> Samples:
        """Unpack the bytes of rows to whole samples (rows, samples)."""
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
        """Undo predictor 3 (Adobe Photoshop TIFF technical note 3).

        Bytes of equal weight lie together, and differences are stored.
        """
        layout = self._layout
        size = layout.bits // 8
        steps = stored.reshape(len(stored), -1, self._parts)
        weights = np.add.accumulate(steps, axis=1, dtype=np.uint8).reshape(len(stored), size, -1).swapaxes(1, 2)
        floats = np.ascontiguousarray(weights).view(f">f{size}")[..., 0].astype(f"f{size}")
        return floats.reshape(len(stored), layout.block_width, self._parts)

    def _repeat_colours(self, stored: NDArray[np.uint8], first: int) -> Samples:
        """Convert units of several Y, one Cb and one Cr to YCbCr (rows, width, 3) (TIFF 6.0, section 21).

        The first units are in row `first` of a block.
        """
        across, down = self._layout.subsampling
        units = stored.reshape(len(stored), -1, across * down + 2)
        light = units[..., :-2].reshape(*units.shape[:2], down, across).swapaxes(1, 2)
        samples = np.empty((len(stored), down, units.shape[1], across, 3), np.uint8)
        samples[..., 0] = light
        samples[..., 1:] = units[:, None, :, None, -2:]
        rows = samples.reshape(len(stored) * down, -1, 3)
        # Rows and columns beyond the size of a block are padding.
        height = self._layout.block_height
        if self.rows * down != height:
            kept = np.arange(first * down, first * down + len(rows)) % (self.rows * down) < height
            rows = rows[kept]
        return rows[:, : self._layout.block_width]

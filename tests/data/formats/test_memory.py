"""What decoding takes is never more than is said beforehand, as the system measures it."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer.data.formats.memory import SMALL, resizing_bytes
from resnet_infer.data.image import is_resizable, read_image
from resnet_infer.errors import UsageError

WIDTH, HEIGHT = 1800, 1600
BYTES_PER_PIXEL = 16
"""Most that any format takes at that size, with the parts that are worked on."""
MEASURE = """
import ctypes, json, sys
from pathlib import Path
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import ten_crops
from resnet_infer.data.formats.memory import resizing_bytes
from resnet_infer.errors import PictureError
from resnet_infer.models.spec import InputSpec
import resnet_infer.data.formats.bmp, resnet_infer.data.formats.png, resnet_infer.data.formats.tiff.picture
import PIL.GifImagePlugin
import PIL.WebPImagePlugin, PIL.TiffImagePlugin, zlib

class Input:
    resize, crop, interpolation = 256, 224, "bilinear"

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))

warm = sorted(Path(sys.argv[1]).glob("small*"))
for path in [*warm, *sorted(Path(sys.argv[1]).glob("large*"))]:
    content, said = path.read_bytes(), []
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    reserve = lambda size, width, height: said.append(max(size, resizing_bytes(width, height, 256)))
    try:
        ten_crops(read_image(content, max_pixels=10**9, reserve=reserve), Input)
    except PictureError as error:
        print(error, file=sys.stderr)
    print(json.dumps([path.name, max(said, default=0), status("VmHWM") - before]))
"""

PEAK = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
print(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(child.returncode or os.waitstatus_to_exitcode(status))
"""
"""The peak of a command, asked by a small process: on Linux a child begins with that of its parent."""


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, colour: int, depth: int, samples: int) -> bytes:
    packer, row = zlib.compressobj(1), b"\0" + bytes([120]) * (width * samples * depth // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks
    )


def tiff(width: int, height: int, samples: int, dtype: str, photometric: int, **more: int) -> bytes:
    """One strip, deflated, to be turned."""
    kind = np.dtype(dtype)
    row = np.full(width * samples, 3, kind).tobytes()
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    format = {"u": 1, "i": 2, "f": 3}[kind.kind]
    tags = {256: width, 257: height, 259: 8, 262: photometric, 273: 8, 274: 6, 277: samples, 278: height}
    tags |= {279: len(data), 317: more.get("predictor", 1)}
    if "extra" in more:
        tags[338] = more["extra"]
    body = bytearray(b"II*\0" + struct.pack("<I", 8 + len(data)) + data)
    lists = {258: [8 * kind.itemsize] * samples, 339: [format] * samples}
    entries, tail = b"", bytearray()
    end = len(body) + 2 + 12 * (len(tags) + len(lists)) + 4
    for number in sorted({*tags, *lists}):
        if number in tags:
            entries += struct.pack("<HHII", number, 4, 1, tags[number])
        else:
            values = struct.pack(f"<{samples}H", *lists[number])
            where = values.ljust(4, b"\0") if len(values) <= 4 else struct.pack("<I", end + len(tail))
            tail += values if len(values) > 4 else b""
            entries += struct.pack("<HHI", number, 3, samples) + where
    return bytes(body) + struct.pack("<H", len(tags) + len(lists)) + entries + bytes(4) + bytes(tail)


def files(width: int, height: int) -> dict[str, bytes]:
    """A file of every kind that is decoded another way."""
    rgb = Image.new("RGB", (width, height), (200, 100, 50))
    rgba, grey, cmyk = rgb.convert("RGBA"), rgb.convert("L"), rgb.convert("CMYK")
    rgba.putalpha(128)
    palette = Image.new("P", rgb.size, 3)
    palette.putpalette(list(range(256)) * 3)
    turned = Image.Exif()
    turned[274] = 6
    jpegs = {
        f"{name} {'progressive' if progressive else 'plain'}": saved(
            picture, "JPEG", progressive=progressive, subsampling=0 if picture is rgb else -1, exif=turned
        )
        for name, picture in (("grey", grey), ("rgb", rgb), ("cmyk", cmyk))
        for progressive in (False, True)
    }
    made = {**jpegs, **{f"{name} cut": content[:-2] for name, content in jpegs.items()}}
    for name, picture, options in (
        ("rgb", rgb, {}), ("rgba", rgba, {}), ("la", rgba.convert("LA"), {}), ("1", grey.convert("1"), {}),
        ("p", palette, {}), ("p transparent", palette, {"transparency": 3}),
        ("rgb transparent", rgb, {"transparency": (1, 2, 3)}),
    ):  # fmt: skip
        made[f"png {name}"] = saved(picture, "PNG", exif=turned, compress_level=1, **options)
    for name, colour, samples in (("grey", 0, 1), ("rgb", 2, 3), ("la", 4, 2), ("rgba", 6, 4)):
        made[f"png 16 {name}"] = png(width, height, colour, 16, samples)
    for name, picture, lossless in (("lossless", rgb, True), ("lossy", rgb, False), ("alpha", rgba, False)):
        made[f"webp {name}"] = saved(picture, "WEBP", method=0, exif=turned, lossless=lossless)
    for name, picture in (("rgb", rgb), ("grey", grey), ("rgba", rgba), ("1", grey.convert("1"))):
        made[f"bmp {name}"] = saved(picture, "BMP")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    made["png noise"] = saved(noise, "PNG", compress_level=0)  # the file is as large as the picture
    made["gif"] = saved(palette, "GIF")
    made["gif transparent"] = saved(palette, "GIF", transparency=3)
    for name, samples, dtype, photometric, more in (
        ("grey", 1, "u1", 1, {}), ("rgb", 3, "u1", 2, {}), ("rgba", 4, "u1", 2, {"extra": 2}), ("cmyk", 4, "u1", 5, {}),
        ("rgba 16", 4, "u2", 2, {"extra": 2, "predictor": 2}), ("rgb 16", 3, "u2", 2, {}), ("i32", 1, "i4", 1, {}),
        ("f16", 1, "f2", 1, {}), ("f32", 1, "f4", 1, {}), ("f32 predicted", 1, "f4", 1, {"predictor": 3}),
        ("f64", 1, "f8", 1, {}), ("lab", 3, "u1", 8, {}), ("ycc", 3, "u1", 6, {}), ("la", 2, "u1", 1, {"extra": 2}),
    ):  # fmt: skip
        made[f"tiff {name}"] = tiff(width, height, samples, f"<{dtype}", photometric, **more)
    for name, compression in (("lzw", "tiff_lzw"), ("jpeg", "jpeg")):
        made[f"tiff {name}"] = saved(rgb, "TIFF", compression=compression)
    return made


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read in /proc")
def test_no_format_takes_more_than_is_said(tmp_path: Path) -> None:
    made = {"large " + name: content for name, content in files(WIDTH, HEIGHT).items()}
    made["large narrow"] = saved(Image.new("RGB", (4, 1500)), "PNG")  # it grows when it is resized
    made["large wide"] = saved(Image.new("L", (1500, 4)), "PNG")
    for name, content in (made | {"small " + name: content for name, content in files(64, 64).items()}).items():
        (tmp_path / name).write_bytes(content)
    run = measured(tmp_path)
    assert run.stderr == ""
    found = {name: (said, taken) for name, said, taken in map(json.loads, run.stdout.splitlines())}
    assert found.keys() >= made.keys()
    over = {name: (said, taken) for name, (said, taken) in found.items() if name in made and taken > said + SMALL}
    assert not over
    much = {name: (taken - SMALL) / (WIDTH * HEIGHT) for name, (_, taken) in found.items() if name in made}
    few = {"large narrow", "large wide"}
    assert {name: taken for name, taken in much.items() if taken > BYTES_PER_PIXEL and name not in few} == {}
    # Nor very much less, in the commonest forms: what is not needed cannot be used by others.
    for name in ("rgb plain", "rgb progressive", "png rgb", "tiff lzw"):
        said, taken = found[f"large {name}"]
        assert taken > said / 2.6, (name, said, taken)


def measured(folder: Path) -> subprocess.CompletedProcess[str]:
    """Decode the files of `folder`.

    glibc raises the size from which it gives memory back when large blocks are freed. It is kept at its first value:
    gaps between earlier images in the heap are not what an image takes.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", MEASURE, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def crowded(size: int) -> dict[str, bytes]:
    """Small pictures in files of about `size` bytes, the rest of which is something else."""
    picture = Image.new("RGB", (64, 64), (200, 100, 50))
    jpeg, gif, webp = saved(picture, "JPEG"), saved(picture.convert("P"), "GIF"), saved(picture, "WEBP")
    made = {"jpeg filling": jpeg[:2] + b"\xff" * size + jpeg[2:]}
    for name, segment in (
        ("jpeg comments", b"\xff\xfe\0\2"), ("jpeg applications", b"\xff\xe5\0\2"),
        ("jpeg exif", b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)), ("jpeg tables", b"\xff\xdb\0\x43\0" + b"\1" * 64),
    ):  # fmt: skip
        made[name] = jpeg[:2] + segment * (size // len(segment)) + jpeg[2:]
    frame = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)
    for name, extension in (("gif comments", b"\x21\xfe\x01a\0"), ("gif controls", b"\x21\xf9\x04\0\0\0\0\0")):
        made[name] = gif[:frame] + extension * (size // len(extension)) + gif[frame:]
    whole = png(64, 64, 2, 8, 3)
    for kind in (b"IDAT", b"PLTE", b"tEXt"):
        chunk = bytes(4) + kind + struct.pack(">I", zlib.crc32(kind))
        made[f"png {kind.decode()}"] = whole[:33] + chunk * (size // len(chunk)) + whole[33:]
    head = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0, 63, 0, 0, 63, 0, 0])
    for name, chunk in ("webp exif", b"EXIF" + struct.pack("<I", size) + bytes(size)), ("webp chunks", b"abcd\0\0\0\0"):
        body = b"WEBP" + head + webp[12:] + chunk * (size // len(chunk) or 1)
        made[name] = b"RIFF" + struct.pack("<I", len(body)) + body
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: 4096, 320: 0, 339: 1}
    for many in ((258,), (273, 279), (320,), (339,)):
        body = b"II*\0" + struct.pack("<I", 8 + size) + b"\1" * size
        body += struct.pack("<H", len(tags))
        for number, value in tags.items():
            entry = (number, 1, size - 4096, 4104) if number in many else (number, 4, 1, value)
            body += struct.pack("<HHII", *entry)
        made[f"tiff {many}"] = body + bytes(4)
    return made


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read in /proc")
def test_what_a_file_has_besides_its_picture_takes_no_more_than_is_said(tmp_path: Path) -> None:
    made = {"large " + name: content for name, content in crowded(6_000_000).items()}
    for name, content in (made | {"small " + name: content for name, content in files(64, 64).items()}).items():
        (tmp_path / name).write_bytes(content)
    run = measured(tmp_path)
    found = {name: (said, taken) for name, said, taken in map(json.loads, run.stdout.splitlines())}
    assert found.keys() >= made.keys()
    over = {name: found[name] for name in made if found[name][1] > found[name][0] + len(made[name]) + 2 * SMALL}
    assert over == {}
    refused = (
        "JPEG of more than 20,000 segments",
        "GIF of more than 10,000 extensions",
        "PNG of more than 100,000 chunks",
    )
    assert [run.stderr.count(reason) for reason in refused] == [4, 2, 3], run.stderr


def test_a_picture_in_many_parts_is_the_same() -> None:
    def stream(size: int) -> bytes:
        whole = png(64, 64, 2, 8, 3)
        start = whole.index(b"IDAT") + 4
        data = whole[start : start + int.from_bytes(whole[start - 8 : start - 4], "big")]
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        text = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
        chunks = b"".join(
            struct.pack(">I", len(p)) + b"IDAT" + p + struct.pack(">I", zlib.crc32(b"IDAT" + p)) for p in parts
        )
        return whole[:33] + text + chunks + whole[start + len(data) + 4 :]

    assert (
        read_image(stream(1)).tobytes()
        == read_image(stream(10**6)).tobytes()
        == read_image(png(64, 64, 2, 8, 3)).tobytes()
    )


def test_what_is_told_may_be_refused_by_an_error_of_ours() -> None:
    def refuse(size: int, width: int, height: int) -> None:
        assert (width, height) == (64, 64)
        raise UsageError("no room")

    for name, content in files(64, 64).items():
        with pytest.raises(UsageError, match="no room"):
            read_image(content, name, reserve=refuse)


def test_the_largest_copy_that_is_made_is_counted() -> None:
    for width, height in ((1, 2730), (2730, 1), (100, 100), (5000, 3000)):
        assert is_resizable(width, height, 256)
        scale = 256 / min(width, height)
        assert resizing_bytes(width, height, 256) >= 8 * int(width * scale) * int(height * scale)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the peak of a child is asked of the system")
def test_fifty_million_pixels_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    peaks = {}
    for name, content in files(8660, 5774).items():
        path = tmp_path / "picture"
        path.write_bytes(content)
        command = [sys.executable, "-m", "resnet_infer", "classify", str(path)]
        run = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True)
        assert run.returncode == 0, (name, run.stderr)
        peaks[name] = int(run.stdout)
    assert {name: peak for name, peak in peaks.items() if peak >= 10**9} == {}

#!/usr/bin/env python3
"""Makes tests/golden/data: image files and what Pillow and torchvision make of them.

Needs pillow, numpy, torch and torchvision; the tests need none of them. Run without arguments from anywhere:
the same versions write the same files. `cases.json` lists the cases; *.raw holds 8-bit pixels in [height,
width, channels] order.
"""
import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

OUT = pathlib.Path(__file__).parent / "data"
CASES = {"decode": [], "grey": [], "resize": [], "center": []}


def scene(height, width, channels, seed):
    """Smooth colours, edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(channels)]
    image = np.stack(planes, -1) + rng.normal(0, 20, (height, width, channels))
    image[height // 3: height // 2, width // 4: width // 2] = rng.integers(0, 256, channels)
    return np.clip(image, 0, 255).astype(np.uint8)


def raw(name, pixels):
    (OUT / f"{name}.raw").write_bytes(np.ascontiguousarray(pixels).tobytes())
    return f"{name}.raw"


def decode_case(name, data):
    (OUT / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    pixels = np.array(image.convert("RGB"))
    CASES["decode"].append({"file": name, "height": pixels.shape[0], "width": pixels.shape[1],
                            "mode": image.mode, "expected": raw(name, pixels)})


def jpeg(pixels, **options):
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[pixels.shape[-1]]
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return bytearray(data.getvalue())


def jpegs():
    odd, even = scene(29, 43, 3, 1), scene(32, 32, 3, 2)
    decode_case("grey.jpg", jpeg(scene(29, 43, 1, 3), quality=80))
    decode_case("444.jpg", jpeg(odd, quality=90, subsampling="4:4:4"))
    decode_case("422.jpg", jpeg(odd, quality=85, subsampling="4:2:2"))
    decode_case("420.jpg", jpeg(odd, quality=75, subsampling="4:2:0"))
    decode_case("progressive.jpg", jpeg(odd, quality=75, progressive=True, optimize=True))
    decode_case("rgb.jpg", jpeg(odd, quality=90, keep_rgb=True))
    decode_case("pixel.jpg", jpeg(odd[:1, :1], quality=90))

    cmyk = jpeg(scene(29, 43, 4, 4), quality=85)
    decode_case("cmyk.jpg", cmyk)
    adobe = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    decode_case("cmyk_without_marker.jpg", cmyk[:adobe] + cmyk[adobe + 16:])
    cmyk[adobe + 15] = 2  # the transform: now the same samples are read as YCCK
    decode_case("ycck.jpg", cmyk)

    # Four luma blocks in a column instead of a square: a subsampling for which TurboJPEG has no name.
    tall = jpeg(even, quality=85, subsampling="4:2:0")
    frame = tall.index(b"\xff\xc0")
    assert tall[frame + 11] == 0x22
    tall[frame + 11] = 0x14
    decode_case("unnamed_subsampling.jpg", tall)
    # Complete, but with bytes that belong to nothing before the end marker: decoded all the same.
    stray = jpeg(even, quality=85)
    decode_case("stray_bytes.jpg", stray[:-2] + b"\x12\x34\x56" + stray[-2:])


def png(samples, depth, color, palette=None, transparency=None, interlaced=False):
    """`samples`: [height, width, channels] integers below 2^depth."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def rows(part):
        if part.size == 0:
            return b""
        lines = []
        for line in part.reshape(part.shape[0], -1):
            if depth == 16:
                lines.append(b"\0" + line.astype(">u2").tobytes())
            else:
                bits = (line[:, None] >> np.arange(depth - 1, -1, -1)) & 1
                lines.append(b"\0" + np.packbits(bits.astype(np.uint8).ravel()).tobytes())
        return b"".join(lines)

    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(rows(samples[y::down, x::right]) for y, x, down, right in passes)
    height, width = samples.shape[:2]
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    if palette is not None:
        out += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency is not None:
        out += chunk(b"tRNS", transparency)
    return out + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def pngs():
    rng = np.random.default_rng(5)
    names = {0: ("grey", 1), 2: ("rgb", 3), 3: ("palette", 1), 4: ("grey_alpha", 2), 6: ("rgba", 4)}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for color, (name, channels) in names.items():
        for depth in depths[color]:
            samples = rng.integers(0, 2**depth, (11, 13, channels))
            if (color, depth) == (0, 16):
                samples[:6] = rng.integers(0, 300, (6, 13, 1))  # around where Pillow clips
            # The last palette entry of each is missing: Pillow takes black.
            palette = rng.integers(1, 256, (2**depth - 1, 3)) if color == 3 else None
            for interlaced in (False, True):
                suffix = "_interlaced" if interlaced else ""
                decode_case(f"{name}{depth}{suffix}.png", png(samples, depth, color, palette, None, interlaced))
    samples = rng.integers(0, 4, (11, 13, 1))
    decode_case("palette_transparent.png", png(samples, 2, 3, rng.integers(0, 256, (4, 3)), bytes([0, 128, 255])))
    decode_case("rgb_transparent.png", png(rng.integers(0, 2, (11, 13, 3)), 8, 2, None, struct.pack(">HHH", 0, 1, 0)))


def resampling():
    for channels in (1, 3):
        pixels = scene(37, 53, channels, 6)
        source = raw(f"scene{channels}", pixels)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        for height, width in ((37, 53), (16, 16), (37, 20), (19, 53), (7, 80), (61, 9), (1, 1), (64, 96)):
            out = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
            CASES["resize"].append({"input": source, "channels": channels, "in_height": 37, "in_width": 53,
                                    "height": height, "width": width,
                                    "expected": raw(f"resize{channels}_{height}x{width}", out)})
    CASES["grey"].append({"input": "scene3.raw", "height": 37, "width": 53,
                          "expected": raw("scene3_grey", np.array(Image.fromarray(scene(37, 53, 3, 6)).convert("L")))})


def centers():
    for height, width, resize, size in ((37, 53, 32, 28), (53, 37, 20, 17), (37, 53, 37, 32), (37, 37, 19, 16),
                                        (37, 53, 16, 20), (37, 53, 18, 21), (9, 40, 12, 15), (40, 9, 5, 8)):
        pixels = scene(height, width, 3, 7)
        name = f"center_{height}x{width}_{resize}_{size}"
        image = F.center_crop(F.resize(Image.fromarray(pixels), resize), size)
        CASES["center"].append({"input": raw(f"{name}_input", pixels), "in_height": height, "in_width": width,
                                "resize": resize, "size": size, "expected": raw(name, np.array(image))})


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    jpegs()
    pngs()
    resampling()
    centers()
    (OUT / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    print(sum(f.stat().st_size for f in OUT.iterdir()), "bytes in", OUT)

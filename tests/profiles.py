"""Color profiles built from scratch, so that no third-party file is committed (ICC.1:2001, version 2)."""

import struct

import numpy as np


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Build an ICC profile with a header and these tags."""
    tags = {b"desc": text(b"test"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(0.9642, 1.0, 0.8249), **tags}
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI", size, b"lcms", 0x02400000) + kind + space + connection
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body


def s15(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(*values):
    return b"XYZ \0\0\0\0" + s15(*values)


def text(words):
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + bytes(78)


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def display_p3() -> bytes:
    """Build an RGB profile with the primaries of Display P3, adapted to D50, and a gamma of 2.2."""
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2))
    return profile(b"mntr", b"RGB ", b"XYZ ", {**{name: xyz(*value) for name, value in primaries.items()}, **curves})


def gray(exponent=1.0) -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma(exponent)})


def cmyk() -> bytes:
    """Build a profile of a press with slightly dull inks: a lut8 to Lab with two points per ink."""
    corners = []
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = 100 * (1 - 0.4 * c) * (1 - 0.45 * m) * (1 - 0.08 * y) * (1 - 0.85 * k)
        fade = 1 - 0.9 * k
        corners.append((light, fade * (-35 * c + 70 * m - 4 * y), fade * (-45 * c - 5 * m + 85 * y)))
    grid = bytes(round(min(255, max(0, v))) for light, a, b in corners for v in (light * 2.55, a + 128, b + 128))
    straight = bytes(range(256))
    matrix = s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + straight * 4 + grid + straight * 3
    return profile(b"prtr", b"CMYK", b"Lab ", dict.fromkeys((b"A2B0", b"A2B1", b"A2B2"), lut))

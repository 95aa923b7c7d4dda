"""What the units of coded pictures tell: whether a key frame is a clean start, and whether a picture is referred to."""

from __future__ import annotations

from collections.abc import Iterator

_REFRESH = {"h264": {5}, "hevc": {19, 20}}  # IDR slices: H.264 table 7-1, H.265 table 7-1
_PICTURES = {"h264": set(range(1, 6)), "hevc": set(range(32))}


def refreshes(packet: bytes, codec: str) -> bool:
    """Say whether a key packet makes the decoder forget all that was before (IDR).

    Recovery points and clean random access pictures do not: frames after them may refer to frames before.

    Args:
        packet: one coded picture, its units after start codes or 4-byte lengths.
        codec: "h264" or "hevc"; key frames of other codecs are taken at their word.

    Example:
        >>> refreshes(bytes([0, 0, 0, 2, 0x65, 0x88]), "h264"), refreshes(bytes([0, 0, 0, 2, 0x41, 0x9A]), "h264")
        (True, False)
    """
    if codec not in _REFRESH:
        return True
    for header in _unit_headers(packet):
        kind = header & 0x1F if codec == "h264" else header >> 1 & 0x3F
        if kind in _PICTURES[codec]:
            return kind in _REFRESH[codec]
    return False


def disposable(packet: bytes) -> bool:
    """Say whether no other picture refers to this H.264 picture (``nal_ref_idc`` 0 in all its slices; H.264, 7.4.1).

    Args:
        packet: one coded picture, its units after start codes or 4-byte lengths.

    Example:
        >>> disposable(bytes([0, 0, 0, 2, 0x01, 0x9A])), disposable(bytes([0, 0, 0, 2, 0x41, 0x9A]))
        (True, False)
    """
    importance = [header >> 5 & 3 for header in _unit_headers(packet) if header & 0x1F in _PICTURES["h264"]]
    return bool(importance) and not any(importance)


def _unit_headers(packet: bytes) -> Iterator[int]:
    """Yield the first byte of each unit."""
    if packet[:3] == b"\0\0\1" or packet[:4] == b"\0\0\0\1":
        at = packet.find(b"\0\0\1")
        while 0 <= at < len(packet) - 3:
            yield packet[at + 3]
            at = packet.find(b"\0\0\1", at + 3)
        return
    at = 0
    while at + 4 < len(packet):
        yield packet[at + 4]
        at += 4 + int.from_bytes(packet[at : at + 4], "big")

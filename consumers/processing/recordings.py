"""Sound and film: measured, not decoded."""

from __future__ import annotations

import math
from pathlib import Path

import av

from consumers.processing.contents import CODECS, Metadata, Refused, title

_MP4 = "mov"
_WEBM = "matroska"
CONTAINERS = {
    "video/mp4": _MP4,
    "video/quicktime": _MP4,
    "video/x-m4v": _MP4,
    "video/3gpp": _MP4,
    "audio/mp4": _MP4,
    "audio/m4a": _MP4,
    "audio/x-m4a": _MP4,
    "video/webm": _WEBM,
    "video/x-matroska": _WEBM,
    "audio/webm": _WEBM,
    "audio/ogg": "ogg",
    "video/ogg": "ogg",
    "audio/opus": "ogg",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/aac": "aac",
    "video/x-msvideo": "avi",
}
"""What is read, by media type, and as which container. Others are not tried: a playlist would name files to be opened."""

STREAMS_MAX = 32
"""Tracks of one recording."""


def process(content: Path, content_type: str) -> Metadata:
    """What is known of a recording. Raises Refused."""
    try:
        # From an open file and with no protocol: nothing that it names can be opened.
        with (
            content.open("rb") as opened,
            av.open(opened, format=CONTAINERS[content_type], options={"protocol_whitelist": ""}) as recording,
        ):
            if not recording.streams or len(recording.streams) > STREAMS_MAX:
                raise Refused("MEDIA_UNREADABLE", f"The recording has no track, or more than {STREAMS_MAX}.")
            assert isinstance(recording, av.container.InputContainer)  # it was opened to be read
            return _measured(recording)
    except (av.FFmpegError, OSError, ValueError, OverflowError) as fault:
        raise Refused("MEDIA_UNREADABLE", "The recording is damaged, cut off, or is none of its type.") from fault


def _measured(recording: av.container.InputContainer) -> Metadata:
    found = Metadata(title=title(recording.metadata.get("title")))
    seconds = (recording.duration or 0) / av.time_base
    found.duration = seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    for stream in recording.streams:
        context = stream.codec_context
        if stream.type not in ("video", "audio") or context is None:
            continue
        if len(found.codecs) < CODECS and context.name not in found.codecs:
            found.codecs.append(context.name)
        if isinstance(stream, av.VideoStream) and not found.width:
            found.width, found.height = stream.width, stream.height
            found.frame_rate = round(float(stream.average_rate or 0), 3)
        if isinstance(stream, av.AudioStream) and not found.sample_rate:
            found.sample_rate, found.channels = stream.sample_rate or 0, stream.channels or 0
    return found

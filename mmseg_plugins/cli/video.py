"""Segmenting a video frame by frame."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.api.draw import LegendEntry, draw_legend
from mmseg_plugins.api.result import dump_json, write_together
from mmseg_plugins.cli.progress import Progress

if TYPE_CHECKING:
    from mmseg_plugins.api.segmenter import Segmenter

_FALLBACK_RATE = 25.0


def segment_video(
    segmenter: "Segmenter", source: Path, place: Path, options: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write a video of the overlays, and a JSON file with the mean areas beside it.

    Args:
        segmenter: with its vocabulary set.
        source: the video.
        place: of the new video.
        options: ``every``, ``opacity``, ``panoptic``.
        settings: written to the JSON file.

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: if the video cannot be decoded, or has no frame.
        OSError: if no video can be written there.
    """
    content: dict[str, Any] = {}
    write_together(
        {
            place: lambda temporary: content.update(_write_frames(segmenter, source, temporary, options, settings)),
            place.with_suffix(".json"): lambda temporary: dump_json(
                temporary, content | {"overlay_file": place.name}, indent=1
            ),
        }
    )
    return content


def _write_frames(
    segmenter: "Segmenter", source: Path, temporary: Path, options: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, Any]:
    start, counts, number, writer = time.monotonic(), 0, 0, None
    with _open(source) as video:
        total = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // options.every
        rate = (video.get(cv2.CAP_PROP_FPS) or _FALLBACK_RATE) / options.every
        try:
            with Progress(source.name, max(total, 0) or None, unit="frames") as progress:
                for frame in _frames(video, options.every):
                    result = segmenter.segment(frame, panoptic=options.panoptic or None)
                    drawn = _sheet(np.asarray(result.overlay(opacity=options.opacity, legend=False)), result)
                    writer = writer or _writer(temporary, rate, drawn.shape)
                    writer.write(drawn[:, :, ::-1])
                    counts = counts + np.bincount(result.labels.ravel(), minlength=len(result.class_names))
                    number += 1
                    progress.step()
        finally:
            if writer is not None:
                writer.release()
    if not number:
        raise ValueError(f"video {source} has no frame that can be decoded. Convert it to another format first.")
    shares = (counts / counts.sum()).tolist()
    present = [
        {"index": k, "name": result.class_names[k], "share": shares[k]} for k in np.argsort(-counts) if counts[k]
    ]
    return {
        "source": str(source),
        "frames": number,
        "frames_per_second": rate,
        "present": [entry | {"index": int(entry["index"])} for entry in present],
        "seconds": round(time.monotonic() - start, 2),
        "settings": settings,
    }


@contextmanager
def _open(source: Path) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(str(source))
    try:
        if not video.isOpened():
            raise ValueError(f"video {source} cannot be opened: it is damaged, or of a format OpenCV does not know.")
        yield video
    finally:
        video.release()


def _frames(video: cv2.VideoCapture, every: int) -> Iterator[NDArray[np.uint8]]:
    """Yield every Nth frame as RGB."""
    number = 0
    while video.grab():
        if number % every == 0:
            is_read, frame = video.retrieve()
            if is_read:
                yield np.ascontiguousarray(frame[:, :, ::-1])
        number += 1


def _sheet(drawn: NDArray[np.uint8], result: Any) -> NDArray[np.uint8]:
    """Add the legend of all classes, the same for every frame, and even sides, which video formats need."""
    entries = [LegendEntry(name, colour) for name, colour in zip(result.class_names, result.palette, strict=True)]
    sheet = draw_legend(drawn, entries)
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)), constant_values=255)


def _writer(place: Path, rate: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    code = cv2.VideoWriter_fourcc(*("MJPG" if place.suffix.lower() == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(place), code, rate, (shape[1], shape[0]))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write the video {place.name}. Use a name that ends in .mp4 or .avi.")
    return writer

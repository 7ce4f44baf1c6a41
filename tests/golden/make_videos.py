"""Makes tests/golden/videos: nine frames of 28 x 28 as GIF, animated WebP (lossless), Motion JPEG in AVI and in MP4, and
H.264 in MP4.

Usage: make_videos.py OUT_DIR      (PyPI: pillow, numpy; Debian: ffmpeg)

Frame i: red 25 i; blue 40 (y / 4); a square of green 200, 6 wide, at (2 i, 4).  tests/unit/test_video_decode.c knows it.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

FRAMES, SIZE = 9, 28


def frame(i):
    a = np.zeros((SIZE, SIZE, 3), np.uint8)
    a[:, :, 0] = 25 * i
    a[:, :, 2] = (40 * (np.arange(SIZE) // 4))[:, None]
    a[4:10, 2 * i:2 * i + 6, 1] = 200
    return Image.fromarray(a)


def main(out):
    frames = [frame(i) for i in range(FRAMES)]
    palette = [f.quantize(256, method=Image.Quantize.FASTOCTREE) for f in frames]
    for f, p in zip(frames, palette):
        assert np.array_equal(np.asarray(p.convert("RGB")), np.asarray(f)), "a GIF must hold the frames exactly"
    palette[0].save(os.path.join(out, "nine.gif"), save_all=True, append_images=palette[1:], duration=50, loop=0)
    frames[0].save(os.path.join(out, "nine.webp"), save_all=True, append_images=frames[1:], duration=50, lossless=True)
    frames[3].save(os.path.join(out, "still.webp"), lossless=True)
    with tempfile.TemporaryDirectory() as tmp:
        for i, f in enumerate(frames):
            f.save(os.path.join(tmp, f"{i}.png"))
        source = ["-framerate", "10", "-i", os.path.join(tmp, "%d.png")]
        exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact"]
        mjpeg = ["-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj444p"]
        for name, codec in (("nine-mjpeg.avi", mjpeg), ("nine-mjpeg.mp4", mjpeg),
                            ("nine-h264.mp4", ["-c:v", "libx264", "-qp", "4", "-pix_fmt", "yuv420p"])):
            subprocess.run(["ffmpeg", "-v", "error", "-y", *source, *codec, *exact, os.path.join(out, name)], check=True)


main(sys.argv[1])

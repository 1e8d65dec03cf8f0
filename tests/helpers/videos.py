"""Small real videos for tests."""

import av
import numpy as np

SIZE = (64, 96)
COUNT = 12
RATE = 25


def draw_frames(count=COUNT, size=SIZE):
    """Plain frames with a white square that moves to the right; each is brighter than the last."""
    for i in range(count):
        image = np.full((*size, 3), 10 * i, np.uint8)
        image[20:40, 4 * i : 4 * i + 20] = 255
        yield image


def write(path, images=None, codec="libx264", noise=False, options=None, pixels="yuv420p"):
    """Write a file in the format of its suffix; with noise, frames take many bytes."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.pix_fmt = pixels
        images = list(draw_frames() if images is None else images)
        stream.height, stream.width = images[0].shape[:2]
        for image in images:
            if noise:
                image = generator.integers(0, 256, image.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def join(path, *others):
    """Append files to the first one, byte by byte."""
    path.write_bytes(b"".join(other.read_bytes() for other in (path, *others)))
    return path


def cut(path, share):
    """Truncate the file to a share of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path

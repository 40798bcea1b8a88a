"""How much of the speed of decoding is left when frames are encoded and written, and how much memory it takes.

    python benchmarks/ingest.py --ffmpeg=$(command -v ffmpeg)
        five minutes on two free cores: a film of noise and motion at 1280 x 720, 24 frames a second, H.264, is
        made and read in turns by FFmpeg alone (`ffmpeg -f null` at the encoder's size and rate), by
        `read_frames`, and by ingestion as `--mode=ingest` does it; then ingestion of a film of two hours,
        whose memory is watched.
    python benchmarks/ingest.py --encoder=clip --encoder_dir=WEIGHTS ...
        the same with another encoder.

Times are those of rounds that take turns; the ratios are of their medians, in one run. Nothing else may run.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from machine import describe_machine, own_memory
from program import ended_in_one_line

from vmr_jax.library import Library
from vmr_jax.video.decode import read_frames
from vmr_jax.video.encoder import open_encoder
from vmr_jax.video.ingest import Found, content_hash, encode_file

_BITS = 0.15  # a pixel: 3.3 Mbit/s at 1280 x 720 and 24 frames a second, as sites of videos send it
WATCHED = "--watched"  # the argument of the process whose memory is watched


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ffmpeg", default="ffmpeg")
    parser.add_argument("--encoder", default="pixels")
    parser.add_argument("--encoder_dir", default=None)
    parser.add_argument("--seconds", type=int, default=60, help="of the film that is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=2.0, help="of the film whose memory is watched; 0: none")
    options = parser.parse_args()
    encoder = open_encoder(options.encoder, options.encoder_dir and Path(options.encoder_dir))
    with tempfile.TemporaryDirectory() as folder:
        film = make_film(Path(folder) / "film.mp4", options.seconds, 1280, 720, 24)
        times = timed(film, encoder, options.ffmpeg, Path(folder), options.rounds)
        frames = 24 * options.seconds
        print(describe_machine())
        megabits = film.stat().st_size * 8e-6 / options.seconds
        print(f"{options.seconds} s of 1280 x 720, {megabits:.1f} Mbit/s, {encoder.name};")
        print("frames of the file a second, and their")
        print(f"share of FFmpeg's alone; medians of {options.rounds} rounds\n")
        alone = statistics.median(times["ffmpeg -f null"])
        for name, seconds in times.items():
            middle = statistics.median(seconds)
            print(f"{name:<28}{frames / middle:>10,.0f}{alone / middle:>8.1%}")
        if options.hours:
            watch_memory(Path(folder), options.hours, options.encoder, options.encoder_dir)


def make_film(path: Path, seconds: float, width: int, height: int, fps: int) -> Path:
    """A film of moving stripes and noise, which the coder keeps at the bits of a real one of its size."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (8, height, width, 3)).astype(np.uint8)
    across = np.arange(width)[None, :, None] + np.zeros((height, 1, 3), int)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.bit_rate = round(_BITS * width * height * fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(round(seconds * fps)):
            pixels = ((across + 3 * i) // 40 * 37 % 200).astype(np.uint8) + noise[i % 8]
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = i, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def timed(film: Path, encoder, ffmpeg: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way to read the film, a round each in turn."""
    side = next(read_frames(film, encoder.rate, encoder.prepare))[1].shape[1:3]
    scale = f"fps={encoder.rate},scale={side[1]}:{side[0]}:flags=area"
    stat = film.stat()
    found = Found(str(film), content_hash(film), (stat.st_size, stat.st_mtime_ns))
    prepared = np.concatenate([frames for _, frames in read_frames(film, encoder.rate, encoder.prepare)])

    def by_ffmpeg():
        command = [ffmpeg, "-v", "error", "-i", str(film), "-vf", scale, "-pix_fmt", "rgb24", "-f", "null", "-"]
        subprocess.run(command, check=True)

    def decoded():
        for _ in read_frames(film, encoder.rate, encoder.prepare):
            pass

    def encoded():
        for i in range(0, len(prepared), 32):
            encoder.encode(prepared[i : i + 32], None)

    def ingested():
        assert not isinstance(encode_file(folder / "library", found, encoder), str)

    ways = {
        "ffmpeg -f null": by_ffmpeg,
        "decoded": decoded,
        "encoded": encoded,
        "decoded and encoded": ingested,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:  # the first one compiles and fills caches
                times[name].append(time.perf_counter() - began)
    return times


def watch_memory(folder: Path, hours: float, encoder: str, encoder_dir: str | None) -> None:
    """Ingests a film of `hours` in a process of its own, and prints the most memory that it had."""
    film = make_film(folder / "long.mp4", hours * 3600, 320, 240, 5)
    arguments = [str(film), str(folder / "of_long"), encoder, encoder_dir or ""]
    told = subprocess.run([sys.executable, __file__, WATCHED, *arguments], capture_output=True, text=True)
    print("\n" + (told.stdout or told.stderr).strip())


def watched(film: str, library: str, encoder: str, encoder_dir: str) -> None:
    """Adds a film to a library; `watch_memory` starts it."""
    lib = Library(library, encoder=encoder, encoder_dir=encoder_dir or None)
    before, began = peak(), time.perf_counter()
    report = lib.add(film)
    seconds = time.perf_counter() - began
    (video,) = lib.videos
    print(
        f"{report}: {video.duration / 3600:.1f} h in {seconds:.0f} s; at most {peak():.2f} GB of memory, "
        f"of which {before:.2f} GB before the first frame"
    )


def peak() -> float:
    """The most memory of this program so far, in GB; what `resource` says is that of its parent too."""
    return own_memory("VmHWM") / 1e9


if __name__ == "__main__":
    with ended_in_one_line():  # which ends what `subprocess.run` has started, too
        watched(*sys.argv[2:]) if sys.argv[1:2] == [WATCHED] else main()

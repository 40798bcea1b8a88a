"""Real video files, made with PyAV: what each shows tells the second at which it is shown."""

import fractions

import av
import numpy as np

FPS = 10
GREY = 20  # levels of grey by which a frame is brighter than the one of half a second before


def level(second):
    """The grey of the picture at a second: one of twelve levels, which change at 0.1, 0.6, 1.1, ... seconds."""
    return 10 + GREY * (int(2 * second + 0.8 + 1e-6) % 12)


def picture(second, height=48, width=64):
    """[H,W,3] of one grey, but for the left upper corner, which is red."""
    pixels = np.full((height, width, 3), level(second), np.uint8)
    pixels[: height // 3, : width // 3] = (255, 0, 0)
    return pixels


def film(
    path,
    seconds=6.0,
    codec="libx264",
    fps=FPS,
    times=None,
    rotation=0,
    sound=0.0,
    show=picture,
    title="",
    **options,
):
    """Writes a video whose frames begin at `times` (of seconds), or `fps` times a second; returns its path.

    Args:
      path: its suffix is the container.
      seconds: its length.
      codec: of the picture; None writes none.
      fps: frames a second.
      times: of the frames, in milliseconds; None is every 1000 / fps.
      rotation: degrees by which a player has to turn it, against the clock.
      sound: seconds of silence.
      show: second -> pixels [H,W,3].
      title: that the file has; '' for none.
      **options: of the container.
    """
    audio_codec = "libopus" if str(path).endswith(".webm") else "aac"
    with av.open(str(path), "w", options=options) as file:
        file.metadata.update({"title": title} if title else {})
        in_order = {"bf": "0"} if sound else {}  # frames out of order would begin later than the sound
        video = file.add_stream(codec, rate=fps, options=in_order) if codec else None
        audio = file.add_stream(audio_codec, rate=48000, layout="mono") if sound else None
        if video:
            video.height, video.width = show(0.0).shape[:2]
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = fractions.Fraction(1, 1000)
            if rotation:
                video.set_display_rotation(rotation)
            for time in times or range(0, round(1000 * seconds), round(1000 / fps)):
                frame = av.VideoFrame.from_ndarray(show(time / 1000))
                frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
                file.mux(video.encode(frame))
            file.mux(video.encode())
        if audio:
            silence = np.zeros((1, 960), np.float32)
            for i in range(round(sound * 50)):
                samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 48000, 960 * i
                samples.time_base = fractions.Fraction(1, 48000)
                file.mux(audio.encode(samples))
            file.mux(audio.encode())
    return path

"""Video beside OpenCV in Python and ffmpeg's filters."""

from __future__ import annotations

import collections
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from apps import CORES, ENGINES, KERNEL, OURS, ROOT, Application, Contender, run_face, run_json, run_program, version, version_of

VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
DETECT = ROOT / "build" / "examples" / "video" / "detect"
AGREE_MIN = 0.85
Boxes = dict[int, list[list[int]]]


def read_boxes(path: Path) -> Boxes:
    found: Boxes = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        frame, *box = map(int, line.split(","))
        found[frame].append(box)
    return found


def overlap(a: list[int], b: list[int]) -> float:
    """Intersection over union."""
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def agreement(mine: Boxes, other: Boxes) -> float:
    """Which part of mine has one of the other's in the same frame that overlaps by half at least."""
    hits = [any(overlap(box, candidate) >= 0.5 for candidate in other[frame]) for frame in list(mine) for box in mine[frame]]
    return sum(hits) / len(hits)


def ours(folder: Path, workers: int) -> dict[str, Any]:
    text = run_program([DETECT, "--workers", workers, "--quiet", "--boxes", folder / "ours.csv", VIDEO, folder / f"ours{workers}.avi"])
    return {"seconds": float(re.search(r": (\S+) s,", text)[1]), "sums": re.search(r"^frames .*$", text, re.M)[0]}


def engines(folder: Path) -> dict[str, Any]:
    found = run_face("video/detect.py", r"boxes: (\S+) s\n(frames .*)$", "--engines", CORES, VIDEO, folder / "engines.avi")
    return {"seconds": float(found[1]), "sums": found[2]}


def opencv(folder: Path, *arguments: Any) -> dict[str, Any]:
    boxes = folder / f"opencv{''.join(map(str, arguments))}.csv"
    return {**run_json([sys.executable, ROOT / "bench/peers/video_opencv.py", *arguments, "--boxes", boxes, VIDEO, folder / "opencv.avi"]), "path": boxes}


def ffmpeg(folder: Path, threads: int) -> dict[str, Any]:
    start = time.perf_counter()
    run_program(["ffmpeg", "-y", "-loglevel", "error", "-threads", 1, "-filter_threads", threads, "-i", VIDEO, "-vf", "gblur=sigma=1.1,sobel",
                 "-c:v", "mpeg4", "-q:v", 4, "-threads", threads, folder / "ffmpeg.avi"])
    return {"seconds": time.perf_counter() - start}


def make(folder: Path) -> Application:
    scratch = Path(tempfile.mkdtemp())

    def check(results: dict[str, dict[str, Any]]) -> list[str]:
        if not results[OURS]["sums"] == results[ENGINES]["sums"] == results[KERNEL]["sums"]:
            raise SystemExit("the pool's or the engines' video differs from the sequential one")
        if (scratch / "engines.avi").read_bytes() != (scratch / "ours1.avi").read_bytes():
            raise SystemExit("the engines' file differs from the sequential one")
        if (scratch / f"ours{CORES}.avi").read_bytes() != (scratch / "ours1.avi").read_bytes():
            raise SystemExit("the pool's file differs from the sequential one")
        same = f"drawn frames, packets and the file, of the pool and of a cluster's engines: the same bytes as in one process ({results[OURS]['sums']})"
        if "OpenCV in Python, grey" not in results:
            return [same, "boxes: not compared, for OpenCV is not here"]
        mine, other = read_boxes(scratch / "ours.csv"), read_boxes(results["OpenCV in Python, grey"]["path"])
        there, back = agreement(mine, other), agreement(other, mine)
        if min(there, back) < AGREE_MIN:
            raise SystemExit(f"boxes agree with OpenCV's by {there:.0%} and {back:.0%} only")
        return [same,
                f"{there:.1%} of our boxes have one of OpenCV's that overlaps by half at least (intersection over union), {back:.1%} the other way round; "
                f"asked for {AGREE_MIN:.0%}"]

    def plot(folder: Path) -> list[str]:
        sys.path.append(str(ROOT / "examples" / "video"))
        import detect
        detector = detect.Detector(VIDEO, scratch / "python.avi")
        detect.plot(detector.run(), detector.size, folder)
        run_program(["ffmpeg", "-y", "-loglevel", "error", "-i", scratch / "python.avi", "-vf", r"select=eq(n\,300)", "-frames:v", 1, folder / "frame.png"])
        return ["frame.png", "motion.png"]

    return Application(
        "Video", f"vtest.avi, 795 frames of 768 x 576: decode, blur, Sobel, background subtraction, components, boxes, encode "
        f"(OpenCV {version('opencv-python-headless')}; {version_of(['ffmpeg', '-version']).partition(' Copyright')[0]})",
        [Contender(OURS, lambda: ours(scratch, CORES)),
         Contender(ENGINES, lambda: engines(scratch), rounds=2, note="a load-balanced view; frames in a named segment"),
         Contender(KERNEL, lambda: ours(scratch, 1)),
         Contender("OpenCV in Python", lambda: opencv(scratch, "--colour"), rounds=2, needs="cv2", note="background of colours, OpenCV's own threads"),
         Contender("OpenCV in Python, grey", lambda: opencv(scratch), rounds=2, needs="cv2", note="background of greys, as ours"),
         Contender("OpenCV in Python, multiprocessing", lambda: opencv(scratch, "--colour", "--workers", CORES), rounds=1, needs="cv2",
                   note="blur and Sobel in a Pool, the background in the parent; frames are pickled"),
         Contender("ffmpeg, 1 thread", lambda: ffmpeg(scratch, 1), needs="ffmpeg", note="decode, blur, Sobel, encode; detects nothing"),
         Contender(f"ffmpeg, {CORES} threads", lambda: ffmpeg(scratch, CORES), needs="ffmpeg", note="the same")],
        check, python="OpenCV in Python", python_aim=3.2, bytes_moved=795 * 8e6, plot=plot)

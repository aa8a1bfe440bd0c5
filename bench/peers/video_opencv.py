"""What moves in a video, as a Python user starts it: OpenCV alone, or with a multiprocessing.Pool for what needs one frame only.

    python bench/peers/video_opencv.py [--workers N] [--threads N] [--boxes FILE] [--colour] IN OUT

Prints seconds, frames and boxes. The steps are those of examples/video: blur, Sobel, background subtraction (MOG2), opening, widening,
components, drawing, MPEG-4.
"""

import argparse
import json
import multiprocessing
import time

import cv2
import numpy

AREA_MIN = 200
SMALL, LARGE = numpy.ones((3, 3), numpy.uint8), numpy.ones((9, 9), numpy.uint8)


def frames(path):
    video = cv2.VideoCapture(path)
    while True:
        more, frame = video.read()
        if not more:
            return
        yield frame


def filtered(frame):
    """(frame, blurred grey, edges)"""
    grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (5, 5), 0)
    across, down = cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    return frame, grey, cv2.convertScaleAbs(numpy.abs(across) + numpy.abs(down), alpha=0.5)


def single_thread():
    cv2.setNumThreads(1)


def find(subtractor, seen):
    mask = subtractor.apply(seen)
    cleaned = cv2.dilate(cv2.erode(mask, SMALL), LARGE)
    _, _, stats, _ = cv2.connectedComponentsWithStats(cleaned)
    return mask, stats[1:][stats[1:, cv2.CC_STAT_AREA] >= AREA_MIN]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=-1, help="of OpenCV (default: its own choice)")
    parser.add_argument("--boxes")
    parser.add_argument("--colour", action="store_true", help="MOG2 sees the blurred colours, not the blurred grey")
    parser.add_argument("input")
    parser.add_argument("output")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    pool = multiprocessing.Pool(options.workers, single_thread) if options.workers > 1 else None
    subtractor = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
    writer, count, boxes = None, 0, []
    start = time.perf_counter()
    results = pool.imap(filtered, frames(options.input)) if pool else map(filtered, frames(options.input))
    for frame, grey, edges in results:
        mask, found = find(subtractor, cv2.GaussianBlur(frame, (5, 5), 0) if options.colour else grey)
        shining = cv2.cvtColor(cv2.bitwise_and(edges, mask), cv2.COLOR_GRAY2BGR)
        frame = cv2.max(frame, shining)
        for x, y, width, height, area in found.tolist():
            cv2.rectangle(frame, (x, y), (x + width - 1, y + height - 1), (0, 255, 0), 2)
            boxes.append((count, x, y, width, height, area))
        if writer is None:
            writer = cv2.VideoWriter(options.output, cv2.VideoWriter_fourcc(*"FMP4"), 10, frame.shape[1::-1])
        writer.write(frame)
        count += 1
    writer.release()
    seconds = time.perf_counter() - start
    if pool:
        pool.terminate()
    if options.boxes:
        with open(options.boxes, "w") as file:
            file.writelines(",".join(map(str, box)) + "\n" for box in boxes)
    print(json.dumps({"seconds": seconds, "frames": count, "boxes": len(boxes)}))


if __name__ == "__main__":
    main()

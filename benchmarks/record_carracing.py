"""Record a second game: CarRacing as videos with logs of the input, without playloom.

Needs `pip install av 'gymnasium[box2d]'`. A driver steers at the road it sees, with varied speed and sudden wrong
turns. Each session is `session-K.mp4`, 60 pictures per second, and `session-K.csv`, the events of a gamepad. The log
has a clock of its own, and its start is noted 0.23 s late, so all input seems to come 0.23 s early.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np

RATE = 60  # pictures and steps of the game per second
LATE = 0.23  # seconds
FULL_WHEEL = 0.4  # the game's wheels do not turn further
FARTHEST = 80  # nothing farther from the car is in the picture
CAR = (300, 300)  # column and row of the car in the picture


class Driver:
    """Steers at the middle of the road ahead; every few seconds it does something else for a moment."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.next_thought = self.next_whim = self.whim_ends = self.lost = 0.0
        self.speed, self.whim, self.pad = 30.0, (0.0, 0, 0), (0.0, 0, 0)

    def held(self, time: float, picture: np.ndarray, speed: float) -> tuple[float, int, int]:
        """Return stick, gas and brake at a time."""
        if time >= self.next_whim:
            self.next_whim = time + self.random.uniform(2, 6)
            self.whim_ends = time + self.random.uniform(0.15, 0.7)
            self.whim = (self.random.choice([-1, 1]) * self.random.uniform(0.4, 1), *self.random.integers(0, 2, 2))
            self.speed = self.random.uniform(12, 45)
        if time >= self.next_thought:
            self.next_thought = time + self.random.uniform(0.05, 0.2)
            stick = self.whim[0] if time < self.whim_ends else self.steer(picture) + self.random.normal(0, 0.1)
            gas, brake = int(speed < self.speed), int(speed > self.speed + 8)
            if time < self.whim_ends:
                gas, brake = self.whim[1:] if speed > 10 else (1, 0)
            self.pad = round(float(np.clip(stick, -1, 1)), 2), int(gas), int(brake)
        return self.pad

    def steer(self, picture: np.ndarray) -> float:
        """Return the stick towards the road; to the side of the last one where none is seen."""
        ahead = picture[150:270:6].astype(int)
        road = (np.ptp(ahead, axis=-1) < 12) & (ahead.mean(axis=-1) > 60) & (ahead.mean(axis=-1) < 150)
        rows, columns = np.nonzero(road)
        if len(columns) > 20:
            distance = CAR[1] - (150 + 6 * rows)
            self.lost = float(np.median((columns - CAR[0]) / distance))
        return 1.2 * self.lost


def draw_only_near(game: Any) -> None:
    """Make the game four times as fast, with the same pictures."""
    render, draw = game._render, game._draw_colored_polygon

    def draw_near(surface: object, corners: list[Any], *rest: object, clip: bool = True) -> None:
        if not clip or math.dist(corners[0], game.car.hull.position) < FARTHEST:
            draw(surface, corners, *rest, clip=clip)

    game._render = lambda mode: None if mode == "state_pixels" else render(mode)
    game._draw_colored_polygon = draw_near


def record(folder: Path, number: int, seconds: float) -> None:
    """Record one session; its number is the seed."""
    game: Any = gymnasium.make("CarRacing-v3", render_mode="rgb_array", max_episode_steps=10**9).unwrapped
    random = np.random.default_rng(number)
    draw_only_near(game)
    game.reset(seed=number)
    for _ in range(RATE):  # the camera comes near during the first second
        game.step(np.zeros(3))
    driver, clock, pad = Driver(random), random.uniform(1000, 9000), (0.0, 0, 0)
    log: list[tuple[float, str, float]] = [(clock + LATE, "video_start", 1)]
    with av.open(str(folder / f"session-{number:02d}.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 600, 400, "yuv420p"
        for step in range(round(RATE * seconds)):
            picture = game.render()
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            speed = math.hypot(*game.car.hull.linearVelocity)
            held = driver.held(step / RATE, picture, speed)
            time = clock + (step - random.random()) / RATE  # the game looks at the pad once a picture
            log += [
                (time, name, value)
                for name, value, before in zip(("left_stick_x", "trigger_RT", "trigger_LT"), held, pad, strict=True)
                if value != before
            ]
            pad = held
            game.step(np.array([FULL_WHEEL * pad[0], 0.5 * pad[1], 0.4 * pad[2]]))
        video.mux(stream.encode())
    with (folder / f"session-{number:02d}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("time", "control", "value"), *((f"{t:.4f}", c, v) for t, c, v in log)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--first", type=int, default=0, help="number and seed of the first session")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for session in range(arguments.first, arguments.first + arguments.sessions):
        record(arguments.folder, session, arguments.seconds)
        print(f"session-{session}: {arguments.seconds:g} s", flush=True)

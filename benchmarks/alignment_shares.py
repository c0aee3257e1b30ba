"""Alignment check on recordings that are aligned, with their actions stored some steps late or early.

    python benchmarks/alignment_shares.py data/arena data/car_racing

Prints a Markdown table: what the action of step t + s adds, and the verdict, for each true shift.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from playloom.data.dataset import FrameDataset
from playloom.training.alignment import SHIFTS, check_alignment

STRETCHES, STEPS = 16, 120
LARGEST = max(SHIFTS)


def main(folders: list[str]) -> None:
    """Check each data set with each true shift."""
    print("| data | true shift | " + " | ".join(f"s = {shift:+d}" for shift in SHIFTS) + " | verdict |")
    print("|---|--:|" + "--:|" * len(SHIFTS) + "---|")
    for folder in folders:
        dataset = FrameDataset.open(folder)
        firsts = [
            first
            for span in dataset.spans
            for first in range(span.start + LARGEST, span.start + span.length - STEPS - LARGEST, STEPS)
        ]
        chosen = [firsts[index] for index in np.unique(np.linspace(0, len(firsts) - 1, STRETCHES).astype(int))]
        for shift in SHIFTS:
            report = check_alignment(
                (dataset.frames_FHWC[row : row + STEPS], dataset.actions_FA[row - shift : row - shift + STEPS])
                for row in chosen
            )
            shares = " | ".join(f"{share:.3f}" for share in report.shares.values())
            print(f"| {Path(folder).name} | {shift:+d} | {shares} | {report.verdict} {report.best_shift:+d} |")


if __name__ == "__main__":
    main(sys.argv[1:])

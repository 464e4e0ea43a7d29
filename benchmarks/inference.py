"""Inference over a folder against the time of the network's own forward passes, as a ratio in one process.

Files are decoded, predicted, brought to original size and written; the reference predicts the same number of
images already in memory. Rounds alternate between the two.

    python benchmarks/inference.py [--encoder resnet34] [--size 256] [--images 64] [--workers 1] [--overlay]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from training_epoch import CLASSES, build_task

from polymask.data.demo.reader import write_demo_dataset
from polymask.families.images import find_images
from polymask.families.multitask.application import Application
from polymask.inference.folder import predict_files
from polymask.inference.predictor import Predictor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--size", type=int, default=256, help="side of the network's input in pixels")
    parser.add_argument("--images", type=int, default=64, help="files of 450 x 600 pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overlay", action="store_true", help="also write overlays and outlines")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo_dataset(folder / "demo", num_images=options.images, size=(450, 600))
        source = folder / "demo" / "images"
        files = find_images(source)
        model = folder / "model.pt"
        model.write_bytes(b"stands for a checkpoint")
        application = Application(
            {"image_size": options.size, "batch_size": options.batch},
            {},
            class_names=CLASSES,
            multiclass=False,
        )
        predictor = Predictor(
            task=build_task(options.encoder),
            application=application,
            run_name="bench",
            path=model,
        )
        batch = torch.randint(256, (options.batch, options.size, options.size, 3), dtype=torch.uint8)

        def forward() -> None:
            for _ in range(-(-len(files) // options.batch)):
                predictor.predict_batch({"image": batch, "ids": [str(row) for row in range(options.batch)]})

        def whole() -> None:
            predict_files(
                predictor,
                source,
                files,
                folder / "results",
                batch_size=options.batch,
                num_workers=options.workers,
                overlay=options.overlay,
            )
            shutil.rmtree(folder / "results")

        pairs = []
        for _ in range(options.rounds + 1):  # the first one warms up
            start = time.perf_counter()
            forward()
            middle = time.perf_counter()
            whole()
            pairs.append((middle - start, time.perf_counter() - middle))
    ratios = [whole / forward for forward, whole in pairs[1:]]
    print(
        f"unet {options.encoder}, {options.size} px, {len(files)} files, {options.workers} workers, overlay "
        f"{options.overlay}, {predictor.device}: folder / forward = {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; target <= 1.15)"
    )


if __name__ == "__main__":
    main()

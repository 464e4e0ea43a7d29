"""Samples per second and core of the data path after the first epoch: cached read, augmentation, collation.

python benchmarks/data_path.py [--size 256] [--samples 128] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from polymask.data.demo.reader import read_demo
from polymask.data.samplers import TrainBatches
from polymask.factories import build_augmentation
from polymask.families.multitask.dataset import ImageMaskDataset, collate
from polymask.utils.paths import CONFIG_DIR


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="side of the samples in pixels")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    classes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        records, _ = read_demo(
            Path(folder) / "demo", classes=classes, num_images=options.samples, size=(450, 600)
        )
        for name in ("none", "default", "strong"):
            augmentation = build_augmentation(compose("config", overrides=[f"transforms={name}"]).transforms)
            dataset = ImageMaskDataset(
                records,
                image_size=(options.size, options.size),
                augmentation=augmentation,
                cache_dir=Path(folder) / f"cache_{name}",
            )
            batches = TrainBatches(len(dataset), batch_size=16, seed=0)
            rates = []
            for epoch in range(options.rounds + 1):  # the first one fills the cache
                batches.start_epoch(epoch)
                start = time.process_time()
                for keys in batches:
                    collate([dataset[key] for key in keys])
                rates.append(len(batches) * 16 / (time.process_time() - start))
            print(
                f"transforms={name:8} {options.size} px: first epoch {rates[0]:6.0f}, then "
                f"{statistics.median(rates[1:]):6.0f} samples/s per core (target >= 500 for the default)"
            )


if __name__ == "__main__":
    main()

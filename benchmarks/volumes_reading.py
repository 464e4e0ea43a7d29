"""CPU time and memory of reading volumes, for one and for ten times as many: neither may grow faster.

Looks at the headers, decodes into the cache, goes once over the training slices (three neighbours, default
transforms, targets, batches) and once over all volumes. Every size has a process of its own, since the
largest memory of a process never falls.

    python benchmarks/volumes_reading.py [--frames 1 10] [--shape 59 512 512]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from polymask.data.demo.volumes import read_ctc_demo
from polymask.data.module import DataModule
from polymask.factories import build_augmentation, build_data
from polymask.utils.paths import CONFIG_DIR


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--shape", type=int, nargs=3, default=[59, 512, 512], help="z, y, x")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(name) / "drawn"
        _in_child(_draw, drawn, options.shape)
        for frames in options.frames:
            _copy(drawn, Path(name) / f"{frames}", frames)
            _in_child(_measure, Path(name) / f"{frames}", frames)


def _in_child(target: Callable[..., None], *args: Any) -> None:
    # To draw takes more memory than to read, and a process inherits the largest memory of its parent.
    child = multiprocessing.get_context("spawn").Process(target=target, args=args)
    child.start()
    child.join()


def _draw(folder: Path, shape: list[int]) -> None:
    read_ctc_demo(folder, num_sequences=1, num_frames=1, num_objects=20, shape=shape)


def _copy(drawn: Path, folder: Path, frames: int) -> None:
    """Write a sequence of equal frames: to draw them would take longer than to read them."""
    for part, stem in (("01", "t"), ("01_GT/SEG", "man_seg")):
        (folder / part).mkdir(parents=True)
        for frame in range(frames):
            shutil.copy(drawn / part / f"{stem}000.tif", folder / part / f"{stem}{frame:03}.tif")


def _measure(folder: Path, frames: int) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("config", overrides=["data=ctc", "data.num_workers=0", "data.overfit_samples=1000"])
    build_augmentation(cfg.transforms)  # its library takes a second
    cfg.data.data_dir, cfg.data.cache_dir = str(folder), str(folder / "cache")
    print(f"{frames} volumes; CPU seconds per volume, memory above that at the start")
    start = _memory()

    def timed(what: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = call()
        seconds = (time.process_time() - begin) / frames
        print(f"  {what:24} {seconds:7.3f} s   {_memory() - start:6.0f} MB")
        return result

    data: DataModule = timed("headers", lambda: build_data(cfg))
    data.split.subsets["train"] = data.split.subsets["val"] = [record.id for record in data.records]
    loader = timed("decoded into the cache", data.train_loader)
    timed("an epoch of slices", lambda: sum(len(batch["ids"]) for batch in loader))
    volumes = data.evaluation_loader("val")
    timed("all volumes", lambda: sum(int(batch["volume"][0].open().max()) for batch in volumes))


def _memory() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

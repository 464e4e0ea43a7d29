"""Options of runs on volumes that take seconds, and still find something."""

from __future__ import annotations

TINY = [
    "experiment=cells",
    "optimizer=adamw",
    "scheduler=none",
    "transforms=none",
    "data.batch_size=2",
    "data.every_slice=2",
    "data.voxel_size=[0.5,0.25,0.25]",
    "model.backbone=tu-test_resnet",
    "model.weights=null",
    "model.min_size=40",
    "model.max_size=96",
    "model.channels=16",
    "model.hidden_size=16",
    "model.anchor_sizes=[8,12,16,24,32]",
    "model.boxes_per_image=32",
    "model.detections_per_image=10",
    "model.score_threshold=0.01",
    "task.score_threshold=0.1",
    "optimizer.learning_rate=3.0e-3",
]

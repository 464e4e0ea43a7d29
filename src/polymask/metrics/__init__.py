"""Metrics: evaluation collects small quantities per sample, and the numbers follow from them at the end.

Every metric is a function of per-sample quantities and sample weights. Weights of one give the point
estimate; weights that say how often a sample was drawn give the bootstrap replicates. Both are the same
code, so an interval always belongs to its estimate. Every key names its averaging.

- `accumulator`: collects the rows of all batches and processes, in an order that depends on neither.
- `segmentation`: Dice and intersection over union, both from one confusion count per sample and class.
- `boundaries`: distances of outlines, and their share within a tolerance.
- `classification`: accuracy, precision, recall, F1, AUROC and average precision.
- `subgroups`: any of them for the samples of one sex, age band or site, with differences and gaps.
- `permutation`: p-values of a subgroup against the other samples, and their correction by Holm.
- `bootstrap`: replicate weights by whole groups (lesions, patients), and percentile intervals.
"""

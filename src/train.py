"""Train a model: python src/train.py [key=value ...]."""

import sys

from polymask.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

"""Apply a model: python src/infer.py data.data_dir=images/ [run_name=...]."""

import sys

from polymask.cli import main

if __name__ == "__main__":
    main(["infer", *sys.argv[1:]])

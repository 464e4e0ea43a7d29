"""Test a checkpoint: python src/test.py [run_name=...]."""

import sys

from polymask.cli import main

if __name__ == "__main__":
    main(["test", *sys.argv[1:]])

"""`python -m polymask …` does the same as `polymask …`."""

from polymask.cli import main

if __name__ == "__main__":
    main()

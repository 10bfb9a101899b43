"""``python -m fdlab``: the command line, also under ``torchrun -m fdlab``."""

from fdlab.cli.app import main

if __name__ == "__main__":
    main()

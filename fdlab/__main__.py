"""``python -m fdlab``: the command line, also under ``torchrun -m fdlab``."""

import os
import sys

from fdlab.cli.app import main


def _as_a_rank() -> None:
    """Runs and leaves at once, without the interpreter's own end.

    Threads of the process groups of sharded weights may still be there then and abort the process
    ("terminate called without an active exception"), after everything was written and printed.
    """
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _as_a_rank() if "TORCHELASTIC_RUN_ID" in os.environ else main()

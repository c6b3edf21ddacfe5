"""Entry of the worker process."""

import sys

from nightschool_daemon.learning.worker import main

if __name__ == "__main__":
    sys.exit(main())

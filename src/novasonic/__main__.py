"""`python -m novasonic` is the command `novasonic`."""

import sys

from novasonic.cli import main

sys.exit(main())

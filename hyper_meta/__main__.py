"""`python -m hyper_meta` is `hyper-meta`."""

import sys

from hyper_meta.cli.main import main

sys.exit(main())

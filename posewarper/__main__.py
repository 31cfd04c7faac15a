"""``python -m posewarper``: the command line."""

import sys

from posewarper.cli import main

sys.exit(main())

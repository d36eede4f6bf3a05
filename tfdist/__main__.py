"""`python -m tfdist`, e.g. for `tfdist launch --num-workers 2 -m tfdist train ...`."""

import sys

from tfdist.cli.main import main

sys.exit(main())

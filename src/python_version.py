"""Imported first by every command: one line where Python is too old for the rest to be read."""

import sys

if sys.version_info < (3, 10):
    found = ".".join(str(number) for number in sys.version_info[:3])
    sys.exit("error: Python 3.10 or later is needed, this is %s; make the environment with a newer one" % found)

"""Prints in one line why the Python that runs it can't be used here; nothing where it can. Python 2 reads it, too."""

import os
import re
import sys

SETUP = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "setup.py")


def bounds():  # type: ignore[no-untyped-def]
    """The least minor version of Python 3 that setup.py allows, and the first that is too new."""
    with open(SETUP) as file:
        stated = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', file.read())
    assert stated, "setup.py: expected python_requires of the form >=3.N,<3.M"
    return int(stated.group(1)), int(stated.group(2))


def refusal(version):  # type: ignore[no-untyped-def]
    """Why a version, (major, minor, ...), can't be used; "" where it can."""
    least, too_new = bounds()
    if (3, least) <= tuple(version[:2]) < (3, too_new):
        return ""
    named, first, last = (".".join(map(str, pair)) for pair in (version[:2], (3, least), (3, too_new - 1)))
    return "Python " + named + " is not supported: expected " + first + " to " + last + "; give one with PYTHON=PATH"


if __name__ == "__main__":
    sys.stdout.write(refusal(sys.version_info))

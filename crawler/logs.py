"""What the processes of a command say on standard error."""

from __future__ import annotations

import logging

#: Libraries that say more than is of use, and from what on they are heard. What gcsfs raises it also logs, with a
#: traceback.
HEARD = {"urllib3": logging.ERROR, "PIL": logging.ERROR, "gcsfs": logging.CRITICAL}


def speak(level: str) -> None:
    """Say what is at least of *level*, a line each, whatever was configured before."""
    logging.basicConfig(format="%(message)s", level=level, force=True)
    for library, least in HEARD.items():
        logging.getLogger(library).setLevel(least)

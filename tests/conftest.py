"""Examples are not timed: how long one takes is the business of the machine, and of what runs beside it.

The same tree is tested with the same examples everywhere, so that a red run is about the change that is tested. New examples are looked for
where AIOS_SEARCH is set, as `make soak` does; what it finds is kept as an @example.
"""

import os

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("search" if os.environ.get("AIOS_SEARCH") else "repeatable")

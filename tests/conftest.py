"""Examples are not timed: how long one takes is the business of the machine, and of what runs beside it."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

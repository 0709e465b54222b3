"""What is asked at three in the morning: what is up, what waits, who serves it and how fast.

Enters: settings. Leaves: one `Overview`, plain enough for JSON. Asks, and changes nothing. A part
that cannot be reached is a sentence in it, never an exception. Must not know how it is shown.
"""

from bridge.overview.look import Overview, Samples, look, take_samples
from bridge.overview.parts import bounded

__all__ = ["Overview", "Samples", "bounded", "look", "take_samples"]

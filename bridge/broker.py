"""What workers run, and what a user's own tasks are decorated with.

Importing this module reads the environment; nothing connects before a worker or client starts.
"""

from bridge.queues import build_broker
from bridge.settings import load_settings

settings = load_settings()
broker = build_broker(settings, "inference")
training_broker = build_broker(settings, "training")

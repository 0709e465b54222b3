"""`dramatiq bridgebench.workers.dramatiq_worker:broker`."""

from bridgebench.workers.dramatiq_app import make_actor
from bridgebench.workers.environment import read_servers

broker = make_actor(read_servers()).broker

"""`taskiq worker bridgebench.workers.stock_worker:broker`."""

import os

from bridgebench.workers.environment import read_servers
from bridgebench.workers.stock_app import make_broker

broker = make_broker(read_servers(), os.environ["BENCH_QUEUE_TYPE"])

"""`celery --app bridgebench.workers.celery_worker:app worker`."""

from bridgebench.workers.celery_app import make_app
from bridgebench.workers.environment import read_servers

app = make_app(read_servers())

"""A pool of several containers: one name, and an address for each."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from bridge.fetch import servers_of
from bridge.overview.parts import UP
from bridge.overview.pools import find_workers, read_metrics
from bridge.settings import Settings

POOL = "pool.invalid"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Container(BaseHTTPRequestHandler):
    """Answers as a worker's health port, by the address at which it is asked."""

    def do_GET(self):
        assert self.headers["Host"].startswith(POOL)
        ready = self.server.server_address[0] == FIRST
        if self.path == "/metrics":
            registry = CollectorRegistry()
            seconds = Histogram("bridge_task_seconds", "Help.", ["task"], registry=registry)
            seconds.labels("ml_inference").observe(1.0)
            self.answer(200, generate_latest(registry))
            return
        process = {"ready": ready, "live": True, "parts": {"redis": "ok" if ready else "away"}}
        said = json.dumps({"processes": {"1": process}}).encode()
        self.answer(200 if ready else 503, said)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def named(monkeypatch):
    """Gives the pool's name the addresses that one says."""
    asked = socket.getaddrinfo
    addresses = []

    def answer(host, port, *args, **kwargs):
        if host not in {POOL, POOL.encode()}:
            return asked(host, port, *args, **kwargs)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
            for family in [socket.AF_INET6 if ":" in address else socket.AF_INET]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return addresses.extend


@pytest.fixture
def containers():
    """Two of them, on one port; gives it."""
    first = ThreadingHTTPServer((FIRST, 0), Container)
    servers = [first, ThreadingHTTPServer((SECOND, first.server_port), Container)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield first.server_port
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_each_container_is_asked(containers, named):
    named([FIRST, SECOND])
    url = f"http://{POOL}:{containers}"
    (up, ready), (unready, waiting) = await find_workers([url])
    assert (up.address, up.state) == (f"{url} ({FIRST})", UP)
    assert (unready.address, unready.state) == (
        f"{url} ({SECOND})",
        "1 of 1 processes are not ready",
    )
    assert [worker.state for worker in (*ready, *waiting)] == ["ready", "redis: away"]
    told = await read_metrics(Settings(bridge_worker_urls=url))
    assert told["bridge_task_seconds", "ml_inference"][float("inf")] == 2


async def test_one_that_is_gone_is_told(containers, named):
    named([FIRST, "127.0.0.3"])
    (up, _), (gone, workers) = await find_workers([f"http://{POOL}:{containers}"])
    assert up.state == UP
    assert "127.0.0.3" in gone.address
    assert "does not answer" in gone.state
    assert workers == []


async def test_a_host_with_an_address_of_each_kind_is_one(containers, named):
    named([FIRST, "::1"])
    assert await servers_of(f"http://{POOL}") == []
    [(part, _)] = await find_workers([f"http://{POOL}:{containers}"])
    assert (part.address, part.state) == (f"http://{POOL}:{containers}", UP)


async def test_a_name_that_is_none_is_told(named):
    named([])
    [(part, _)] = await find_workers([f"http://{POOL}:1"])
    assert "does not answer" in part.state

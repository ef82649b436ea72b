"""Load a server of an artefact on this machine: answers under load, hostile requests, and its end.

    python scripts/load_serve.py exports/birds new.png [requests] [at once]

It starts `mlx serve` on a free port, prints what it measures, and ends the server.
"""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx


def memory(process: int) -> str:
    """Return the resident memory of a process."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return f"{int(line.split()[1]) / 1024:.0f} MiB"


def bomb() -> bytes:
    """Return a PNG of few bytes and 3600 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


async def loaded(client: httpx.AsyncClient, content: bytes, number: int, at_once: int) -> None:
    """Ask so many times, with so many requests at once."""
    seconds, statuses, numbers = list[float](), Counter[int | str](), iter(range(number))

    async def ask() -> None:
        for _ in numbers:
            began = time.perf_counter()
            try:
                statuses[(await client.post("/predict", content=content)).status_code] += 1
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(at_once)))
    took = time.perf_counter() - began
    ordered = sorted(seconds)
    half, most = (1000 * ordered[int(share * number)] for share in (0.5, 0.99))
    print(
        f"{number} requests, {at_once} at once: {number / took:.0f} a second, p50 {half:.1f} ms, p99 {most:.1f} ms,",
        end=" ",
    )
    print("statuses", dict(statuses))


async def hostile(client: httpx.AsyncClient, content: bytes) -> None:
    """Send what nobody should, and print what is answered."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield bytes(65_536)

    bodies = {"image bomb": bomb(), "text": b"hello", "empty": b"", "half a picture": content[: len(content) // 2]}
    bodies |= {"GIF": b"GIF89a", "40 MB": bytes(40_000_000)}
    for name, body in bodies.items():
        reply = await client.post("/predict", content=body)
        print(f"  {name}: {reply.status_code} {reply.json()['error']}")
    try:
        reply = await client.post("/predict", content=chunks())
        print(f"  chunked, 65 MB: {reply.status_code} {reply.json()['error']}")
    except httpx.HTTPError as error:  # the server has answered and closed before all was sent
        print(f"  chunked, 65 MB: {type(error).__name__}")
    for method, path in (("GET", "/../../etc/passwd"), ("GET", "/%2e%2e/page.py"), ("DELETE", "/classes/..%2F..%2Fx")):
        print(f"  {method} {path}: {(await client.request(method, path)).status_code}")
    reply = await client.put("/classes/x%0Ay", content=content)
    print(f"  a name of two lines: {reply.status_code}")
    reply = await client.get("/classes", headers={"host": "evil.example"})
    print(f"  another host: {reply.status_code} {reply.json()['error']}")


async def ended(client: httpx.AsyncClient, content: bytes, server: subprocess.Popen[str], at_once: int) -> None:
    """End the server while it answers, and print how long that takes."""
    statuses = Counter[int | str]()

    async def ask() -> None:
        while True:
            try:
                statuses[(await client.post("/predict", content=content)).status_code] += 1
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1

    asking = asyncio.gather(*(ask() for _ in range(at_once)))
    await asyncio.sleep(1)
    began = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(server.wait)
    print(f"SIGTERM under load: exit code {code} after {time.perf_counter() - began:.2f} s", end=", ")
    await asking
    print("statuses", dict(statuses))


async def main(artefact: str, file: str, number: str = "10000", at_once: str = "32") -> None:
    """Measure a server of an artefact with a file."""
    words = [sys.executable, "-m", "metalearn_cli.cli.main", "serve", artefact, "port=0", "--json"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["url"]
        limits = httpx.Limits(max_connections=int(at_once))
        content = Path(file).read_bytes()
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
            await loaded(client, content, 100, int(at_once))
            print("memory before:", memory(server.pid))
            await loaded(client, content, int(number), int(at_once))
            print("memory after:", memory(server.pid))
            await hostile(client, content)
            print("memory after hostile requests:", memory(server.pid))
            await ended(client, content, server, int(at_once))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

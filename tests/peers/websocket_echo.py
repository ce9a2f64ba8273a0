"""A WebSocket server that echoes, or a client that checks. `server PORT` or `client ADDRESS SECONDS`."""

import asyncio
import sys
import time

import websockets


async def echo(socket):
    peer = socket.request.headers.get("Attested-Peer", "nobody")
    await socket.send(peer)
    async for message in socket:
        await socket.send(message)


async def serve(port):
    async with websockets.serve(echo, "127.0.0.1", port, max_size=None, subprotocols=["chat"]):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def ask(address, seconds):
    async with websockets.connect(f"ws://{address}/chat", max_size=None, subprotocols=["chat"]) as socket:
        print("peer", await socket.recv(), "protocol", socket.subprotocol)
        end, count = time.monotonic() + seconds, 0
        for message in ["text", "", b"bytes", b"x" * 3_000_000, "ä" * 70_000]:
            await socket.send(message)
            assert await socket.recv() == message
        while time.monotonic() < end:
            await socket.send(str(count))
            assert await socket.recv() == str(count)
            count += 1
        await socket.ping()
    print("closed", socket.close_code, "count", count > 0, count)


if sys.argv[1] == "server":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(ask(sys.argv[2], float(sys.argv[3])))

"""Watches a running world from Python: steers it, counts frames, and can keep the video.

    pip install websockets
    make serve                                             # in one terminal
    python examples/watch_client.py --seconds 10 --out watched.h264   # in another; then: ffplay watched.h264

docs/protocol.md has every byte of what is spoken here.
"""

import argparse
import asyncio
import itertools
import json
import struct
import time

import websockets

VERSION = 1
# version, kind, flags, reserved, generation, frame, presentation time in µs, block, label; then one access unit
HEADER = struct.Struct("<BBBBIQQQI")
KEYFRAME = 1
BLOCKS_PER_LABEL = 4


async def watch(url, seconds, out):
    # the largest packet there is; the library's own limit is 1 MiB
    async with websockets.connect(url, max_size=8 << 20) as socket:
        hello = json.loads(await socket.recv())
        if hello["type"] != "hello" or hello["version"] != VERSION:
            raise SystemExit(f"expected the hello of version {VERSION}, got {hello}")
        info, ids = hello["info"], itertools.count(1)
        labels = [label["name"] for label in info["labels"]]
        print(f"{info['world']}: {', '.join(labels)}; {info['frames_per_second']} frames/s")

        async def ask(request, **fields):
            await socket.send(json.dumps({"id": next(ids), "type": request, **fields}))

        await ask("hello", version=VERSION, kind="h264")
        frames, keyframes, due, turns = 0, 0, 0, itertools.cycle(range(len(labels)))
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            message = await socket.recv()
            if isinstance(message, str):
                answer = json.loads(message)
                if answer["type"] == "applied":
                    print(f"request {answer['id']} applied at block {answer['block']}")
                elif answer["type"] in ("refused", "gap"):
                    print(answer)
                continue
            version, kind, flags, _, generation, frame, pts, block, label = HEADER.unpack_from(message)
            frames, keyframes = frames + 1, keyframes + bool(flags & KEYFRAME)
            if out:
                out.write(message[HEADER.size :])
            if block >= due:
                due = block + BLOCKS_PER_LABEL
                await ask("label", index=next(turns))
        spent = time.monotonic() - start
        print(f"{frames} frames, {keyframes} of them keyframes, {frames / spent:.1f} frames/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:8080/ws")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=argparse.FileType("wb"), help="file for the H.264 stream")
    args = parser.parse_args()
    asyncio.run(watch(args.url, args.seconds, args.out))


if __name__ == "__main__":
    main()

"""Try every TCP port of the given hosts and print the open ones as JSON: {"host": [ports]}."""

import asyncio
import json
import sys

AT_ONCE, TIMEOUT = 4000, 1.5


async def is_open(host: str, port: int, gate: asyncio.Semaphore) -> bool:
    async with gate:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def main(hosts: list[str]) -> dict[str, list[int]]:
    gate = asyncio.Semaphore(AT_ONCE)
    found = {}
    for host in hosts:
        answers = await asyncio.gather(*(is_open(host, port, gate) for port in range(1, 65536)))
        found[host] = [port for port, answer in enumerate(answers, start=1) if answer]
    return found


json.dump(asyncio.run(main(sys.argv[1:])), sys.stdout)

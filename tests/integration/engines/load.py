# SPDX-License-Identifier: Apache-2.0
"""Asks a web server for one page many times: `load.py HOST PORT REQUESTS CONNECTIONS`, on connections that are kept.

The last line is `REQUESTS answered, N connections`; the first answer that is not the page ends it with status 1.
"""
import http.client
import sys
from concurrent.futures import ThreadPoolExecutor


def ask(host, port, count):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.connect()
    socket = connection.sock
    for _ in range(count):
        connection.request("GET", "/")
        answer = connection.getresponse()
        page = answer.read()
        if answer.status != 200 or page != b"a page\n":
            raise SystemExit(f"{answer.status} {page[:100]!r}")
        if connection.sock is not socket:
            raise SystemExit("the server closed the connection")
    connection.close()
    return count


if __name__ == "__main__":
    HOST, PORT, REQUESTS, CONNECTIONS = sys.argv[1], *map(int, sys.argv[2:])
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        done = list(pool.map(lambda _: ask(HOST, PORT, REQUESTS // CONNECTIONS), range(CONNECTIONS)))
    print(f"{sum(done)} answered, {len(done)} connections")

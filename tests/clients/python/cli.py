"""valkey-cli and redis-cli with -c, as a person would use them: commands are typed, answers are read."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from queue import Empty, Queue

from telling import KEYS, PACE, PATIENCE, PHASES, ROUNDS, TAGS, Writes, endpoint, prefix, tell

HOST, PORT = endpoint()
COMMAND = [sys.argv[1], "-c", "-h", HOST, "-p", str(PORT)]
END = "that was all"


class Failed(Exception):
    """What the program says that is no answer."""


class Terminal:
    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if not line.startswith("-> Redirected"):
                self._lines.put(line.rstrip("\n"))

    def type(self, *lines: str) -> None:
        assert self._process.stdin
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def line(self, patience: float = PATIENCE) -> str:
        return self._lines.get(timeout=patience)

    def call(self, *lines: str) -> list[str]:
        """Type lines, and return all that is said to them."""
        self.type(*lines, f'ECHO "{END}"')
        said = []
        while (line := self.line()) != END:
            said.append(line)
        return said

    def write(self, key: str, value: str) -> None:
        """Set a key, and see that it is; an error can take any number of lines."""
        self.type(f'SET "{key}" {value}', f'GET "{key}"')
        said = [self.line()]
        try:
            said.append(self.line())
        except Empty:
            raise Failed("says nothing more") from None
        if said == ["OK", value]:
            return
        time.sleep(0.1)
        while not self._lines.empty():
            self.line()
        raise Failed(next((line for line in said if line not in {"", "OK", value}), "no answer"))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def strings(cli: Terminal, p: str) -> None:
    for n in range(KEYS):
        assert cli.call(f"SET {p}:s:{n} {n}", f"GET {p}:s:{n}") == ["OK", str(n)]


def pipeline(cli: Terminal, p: str) -> None:
    commands = [line for n in range(KEYS) for line in (f"INCRBY {p}:p:{n} {n}", f"GET {p}:p:{n}")]
    assert cli.call(*commands) == [line for n in range(KEYS) for line in (str(n), str(n))]


def transaction(cli: Terminal, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:t"
        said = cli.call(f"GET {key}", "MULTI", f"SET {key}:1 x", f"INCR {key}:2", f"GET {key}:1", "EXEC")
        assert said == ["", "OK", "QUEUED", "QUEUED", "QUEUED", "OK", "1", "x"]


def script(cli: Terminal, p: str) -> None:
    for tag in TAGS:
        key = f"{{{p}:{tag}}}:l"
        text = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])"
        assert cli.call(f'EVAL "{text}" 1 {key} v', f"GET {key}") == ["v", "v"]


def _publish(cli: Terminal, channel: str, subscribe: str, publish: str) -> None:
    subscriber = Terminal(subscribe, channel)
    try:
        assert [subscriber.line() for _ in range(3)] == [subscribe, channel, "1"]
        for n in range(ROUNDS):
            cli.call(f"{publish} {channel} {n}")
        kind = "smessage" if subscribe == "ssubscribe" else "message"
        said = [subscriber.line() for _ in range(3 * ROUNDS)]
        assert said == [line for n in range(ROUNDS) for line in (kind, channel, str(n))]
    finally:
        subscriber.close()


def publish(cli: Terminal, p: str) -> None:
    _publish(cli, f"{p}:c", "subscribe", "PUBLISH")


def sharded_publish(cli: Terminal, p: str) -> None:
    for tag in TAGS:
        _publish(cli, f"{p}:{tag}", "ssubscribe", "SPUBLISH")


def blocking_pop(cli: Terminal, p: str) -> None:
    """Two programs that wait for each other."""
    other = Terminal()
    try:
        for n in range(ROUNDS):
            other.type(f"BLPOP {p}:in {PATIENCE}", f"RPUSH {p}:out re:{n}")
            assert cli.call(f"RPUSH {p}:in {n}", f"BLPOP {p}:out {PATIENCE}") == ["1", f"{p}:out", f"re:{n}"]
            assert [other.line() for _ in range(3)] == [f"{p}:in", str(n), "1"]
    finally:
        other.close()


def stream(cli: Terminal, p: str) -> None:
    for tag in TAGS:
        key = f"{p}:x:{tag}"
        assert cli.call(f"XGROUP CREATE {key} group 0 MKSTREAM") == ["OK"]
        ids = cli.call(*(f"XADD {key} * n {n}" for n in range(ROUNDS)))
        said = cli.call(f"XREADGROUP GROUP group me STREAMS {key} >")
        assert said == [key, *(line for n, i in enumerate(ids) for line in (i, "n", str(n)))]
        assert cli.call(f"XACK {key} group {' '.join(ids)}") == [str(ROUNDS)]
        assert cli.call(f"XPENDING {key} group")[0] == "0"


def scan(cli: Terminal, p: str) -> None:
    """With the program's own command for all nodes."""
    done = subprocess.run(
        [COMMAND[0], "--cluster", "call", f"{HOST}:{PORT}", *f"SCAN 0 MATCH {p}:s:* COUNT 1000000".split()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    found = set(re.findall(rf"{re.escape(p)}:s:\d+", done.stdout))
    assert found == {f"{p}:s:{n}" for n in range(KEYS)}


STEPS = (strings, pipeline, transaction, script, publish, sharded_publish, blocking_pop, stream, scan)


def main() -> None:
    cli = Terminal()
    for step in STEPS:
        step(cli, prefix())
        tell(passed=step.__name__)
    writes = Writes()
    for phase in PHASES:
        writes.begin(phase)
        while not writes.over():
            key, value = writes.next()
            try:
                cli.write(key, value)
                writes.acknowledge(key, value)
                time.sleep(PACE)
            except Failed as error:
                writes.failed(error)
    for key, value in writes.acknowledged().items():
        assert cli.call(f"GET {key}") == [value], key
    tell(found=len(writes.acknowledged()))
    cli.close()


main()

#!/usr/bin/env python3
"""A driver for logserver.py, a store with a server of its own. See docs/formats/driver-protocol.md.

    salvor driver test -- python3 examples/drivers/logserver_driver.py

The catalog's 'state' is DIRECTORY/data; the setting 'directory' is where the server runs.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "logserver.py")


class Refusal(Exception):
    def __init__(self, code, message, state=None, next=None):
        self.told = {"code": code, "message": message}
        if state:
            self.told["state"] = state
        if next:
            self.told["next"] = next


class Client:
    """One connection to the server; what it holds goes with it."""

    def __init__(self, directory):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        try:
            # By its descriptor: a path may be longer than a socket's address.
            place = os.open(directory, os.O_PATH)
            try:
                self.socket.connect(f"/proc/self/fd/{place}/socket")
            finally:
                os.close(place)
        except OSError as error:
            raise Refusal("unreachable", f"the log server in {directory}: {error.strerror}") from error
        self.file = self.socket.makefile("rw")

    def ask(self, line):
        self.file.write(line + "\n")
        self.file.flush()
        return self.file.readline().rstrip("\n")

    def read(self):
        count = int(self.ask("READ").split()[1])
        return [self.file.readline().rstrip("\n") for _ in range(count)]


def digest(path):
    with open(path, "rb") as file:
        lines = sorted(file.read().splitlines())
    part = {"digest": hashlib.sha256(b"\n".join(lines)).hexdigest(), "count": len(lines)}
    return {"scheme": "log-lines-v1", "parts": {"log": part}}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Driver:
    def __init__(self):
        self.settings, self.state, self.client = {}, None, None

    @property
    def directory(self):
        if "directory" not in self.settings:
            raise Refusal("unsupported", "the setting 'directory' is missing")
        return self.settings["directory"]

    def is_running(self):
        try:
            return Client(self.directory).ask("POSITION").startswith("OK")
        except (Refusal, OSError):
            return False

    def hello(self, request):
        if 1 not in request["protocols"]:
            raise Refusal("unsupported", "only version 1 of the protocol is spoken here")
        self.settings, self.state = request["settings"], request.get("state")
        return {"protocol": 1, "program": "logserver_driver.py", "version": "1"}

    def traits(self, request):
        size = int(Client(self.directory).ask("POSITION").split()[1])
        return {"version": "1", "hold": {"held": "HOLD of the server's own"}, "sizeBytes": size}

    # A capture: the copy ahead, and what came after it up to the mark.

    def capture_prepare(self, request):
        self.client = Client(self.directory)
        self.target = request["directory"] + "/log"
        self.copied = int(self.client.ask("POSITION").split()[1])
        self.copy(0, self.copied, "xb")
        return {}

    def copy(self, start, end, mode):
        with open(self.state + "/log", "rb") as source, open(self.target, mode) as target:
            source.seek(start)
            left = end - start
            while left:
                part = source.read(min(left, 1 << 20))
                if not part:
                    raise Refusal("log-gap", f"the log ends before {end}")
                target.write(part)
                left -= len(part)

    def capture_hold(self, request):
        deadline = time.monotonic() + request["limitMilliseconds"] / 1000
        while True:
            left = int((deadline - time.monotonic()) * 1000)
            if left <= 0:
                raise Refusal("hold-timeout", "somebody else holds the server")
            if self.client.ask(f"HOLD {left}") == "OK":
                return {}
            time.sleep(0.01)

    def capture_mark(self, request):
        self.marked = int(self.client.ask("POSITION").split()[1])
        return {"position": {"kind": "bytes", "value": str(self.marked)}}

    def capture_release(self, request):
        return {"held": self.client.ask("RELEASE") == "OK"}

    def capture_finish(self, request):
        self.copy(self.copied, self.marked, "ab")
        return {
            "version": "1",
            "position": {"kind": "bytes", "value": str(self.marked)},
            "contentDigest": digest(self.target),
            "facts": {"sha256": sha256(self.target)},
        }

    # A restore: Salvor swaps 'state', so it is only built and proved here.

    def precheck(self, request):
        findings = []
        if self.settings.get("stop") == "none" and self.is_running():
            findings.append({"code": "server-running", "message": "the log server", "next": "stop it by hand"})
        return {"findings": findings}

    def restore_beside(self, request):
        source, target, capture = request["source"] + "/log", request["target"], request["capture"]
        if not os.path.exists(source) or sha256(source) != capture["facts"].get("sha256"):
            raise Refusal("corrupt", "the log is not the one that was captured", state="nothing was put in place")
        os.mkdir(target, 0o700)
        os.rename(source, target + "/log")
        size = os.path.getsize(target + "/log")
        return {"position": {"kind": "bytes", "value": str(size)}, "proofs": ["every byte, by its SHA-256"]}

    def restore_digest(self, request):
        return {"contentDigest": digest(request["target"] + "/log")}

    def restore_discard(self, request):
        return {}

    # The server.

    def status(self, request):
        return {"running": self.is_running()}

    def start(self, request):
        if self.is_running():
            return {}
        # In a session of its own: it outlives this program.
        subprocess.Popen(
            [sys.executable, SERVER, self.directory],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not self.is_running():
            if time.monotonic() > deadline:
                raise Refusal("engine-failed", "the log server does not start")
            time.sleep(0.02)
        return {}

    def stop(self, request):
        if self.is_running():
            client = Client(self.directory)
            credentials = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            process = int.from_bytes(credentials[:4], sys.byteorder)
            client.ask("SHUTDOWN")
            # Not before it is gone: what it has open must not be swapped.
            while self.is_running() or os.path.exists(f"/proc/{process}/fd/0"):
                time.sleep(0.02)
        return {}

    def query(self, request):
        if request["text"] != "entries":
            raise Refusal("query-failed", "the only query is 'entries'")
        rows = [line.partition(" ")[::2] for line in Client(self.directory).read()]
        return {"columns": ["number", "text"], "rows": rows[: request["rows"]], "truncated": len(rows) > request["rows"]}

    # What `salvor driver test` needs: a store of its own, and somebody who writes to it.

    def test_begin(self, request):
        self.settings = {"directory": request["directory"] + "/server"}
        os.mkdir(self.directory)
        self.start(request)
        client = Client(self.directory)
        for number in range(1, 6):
            client.ask(f"APPEND {number} salvor-record-{number}-of-the-contract")
        writing = ["APPEND 9 x", "SHUTDOWN", "entries\nAPPEND 9 x"]
        return {
            "settings": self.settings, "state": self.directory + "/data", "held": True, "server": True,
            "query": {"reading": "entries", "writing": writing},
        }

    def test_write(self, request):
        if Client(self.directory).ask(f"APPEND {request['number']} {request['payload']}") != "OK":
            raise Refusal("engine-failed", "the server did not take it")
        return {}

    def test_records(self, request):
        return {"numbers": [int(line.split()[0]) for line in Client(self.directory).read()]}

    def test_end(self, request):
        return self.stop(request)


CALLS = {
    "hello", "traits", "capture.prepare", "capture.hold", "capture.mark", "capture.release", "capture.finish", "precheck",
    "restore.beside", "restore.digest", "restore.discard", "status", "start", "stop", "query", "test.begin", "test.write",
    "test.records", "test.end",
}

driver = Driver()
# When standard input ends this program does, and with it its connection and its hold.
for line in sys.stdin:
    request = json.loads(line)
    reply = {"id": request["id"]}
    try:
        if request["call"] not in CALLS:
            raise Refusal("unsupported", f"no call is named {request['call']}")
        reply["result"] = getattr(driver, request["call"].replace(".", "_"))(request)
    except Refusal as refusal:
        reply["error"] = refusal.told
    except Exception as error:  # Whatever it is, the other side should hear of it.
        reply["error"] = {"code": "engine-failed", "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)

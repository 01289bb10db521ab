#!/usr/bin/env python3
"""A small store for the example driver: a server that appends lines to a file and tells when they are safe.

    logserver.py DIRECTORY     keeps DIRECTORY/data/log, listens on DIRECTORY/socket

One command per line: APPEND n text, READ, POSITION, HOLD milliseconds, RELEASE, SHUTDOWN. A hold belongs to its
connection: it ends with it, by RELEASE, or when its time is over.
"""

import os
import socketserver
import sys
import threading
import time

directory = sys.argv[1]
os.makedirs(directory + "/data", exist_ok=True)
log = open(directory + "/data/log", "ab")
change = threading.Condition()
hold = {"owner": None, "until": 0.0}


def is_held():
    if hold["owner"] and time.monotonic() >= hold["until"]:
        hold["owner"] = None
    return hold["owner"] is not None


class Client(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            for line in self.rfile:
                self.wfile.write(self.obey(line.decode().rstrip("\n")).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.let_go()

    def let_go(self):
        with change:
            mine = is_held() and hold["owner"] is self
            if mine:
                hold["owner"] = None
            change.notify_all()
            return mine

    def obey(self, line):
        command, _, rest = line.partition(" ")
        if command == "APPEND":
            with change:
                while is_held():
                    change.wait(max(0.001, hold["until"] - time.monotonic()))
                log.write(rest.encode() + b"\n")
                log.flush()
                os.fsync(log.fileno())
            return "OK"
        if command == "READ":
            with open(directory + "/data/log", "rb") as file:
                lines = file.read().decode().splitlines()
            return "\n".join([f"OK {len(lines)}"] + lines)
        if command == "POSITION":
            return f"OK {os.path.getsize(directory + '/data/log')}"
        if command == "HOLD":
            with change:
                if is_held():
                    return "BUSY"
                hold["owner"], hold["until"] = self, time.monotonic() + int(rest) / 1000
            return "OK"
        if command == "RELEASE":
            return "OK" if self.let_go() else "LAPSED"
        if command == "SHUTDOWN":
            threading.Thread(target=server.shutdown).start()
            return "OK"
        return "WHAT"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False


os.chdir(directory)
if os.path.exists("socket"):
    os.unlink("socket")
server = Server("socket", Client)
server.serve_forever()
os.unlink("socket")

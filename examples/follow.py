#!/usr/bin/env python3
"""Prints who serves a role, and again at every change: follow.py SOCKET ROLE. The protocol is in feed/PROTOCOL.md."""
import json, socket, sys

feed = socket.socket(socket.AF_UNIX)
feed.connect(sys.argv[1])
lines = feed.makefile("rw", encoding="utf-8")

def say(frame):
    print(json.dumps(frame), file=lines, flush=True)

say({"hello": {"version": 1, "name": "follow", "roles": [sys.argv[2]]}})
for frame in map(json.loads, lines):
    if table := frame.get("table"):
        ends = table["endpoints"]
        print(*[f"{end['node']}={end['addr']}={end['state']}" for end in ends] or ["nobody"], flush=True)
        # A stopping node waits for this zero; a program that sends requests tells how many are under way.
        draining = [{"instance": end["instance"], "in_flight": 0} for end in ends if end["state"] == "draining"]
        say({"applied": {"role": table["role"], "generation": table["generation"], "draining": draining}})

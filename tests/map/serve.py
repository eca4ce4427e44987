#!/usr/bin/env python3
"""Serves the live map with a cluster that does not exist, for tests and pictures: the page's own files, and made-up /state, /load and /explain.

    tests/map/serve.py [PORT] [shop|many|states|hostile]

Each question for /load is a second later than the last one, so that what is shown does not hang on the clock.
"""

import http.server
import json
import math
import pathlib
import sys

FILES = pathlib.Path(__file__).parent / "../../admin/src/map"
PAGES = {
    "/": ("map.html", "text/html; charset=utf-8"),
    "/map.css": ("map.css", "text/css"),
    "/map.js": ("map.js", "text/javascript"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
START_MS = 1_790_000_000_000
# Whoever runs one of these has injected something.
EVIL = "<img src=x onerror=document.title='evil'><script>document.title='evil'</script>"

# The roles of a cluster: how many nodes, and whom they ask.
SHOP = {"proxyserver": (2, ["web", "api"]), "web": (3, ["api"]), "api": (5, ["billing"]), "billing": (2, []), "dnsserver": (1, [])}
MANY = {"proxyserver": (4, ["web"]), "web": (36, ["api"]), "api": (158, []), "dnsserver": (2, [])}


class Cluster:
    def __init__(self, kind):
        self.kind, self.second = kind, 0
        self.roles = MANY if kind == "many" else SHOP
        self.totals, self.times = {}, {}
        # What has changed since.
        self.states, self.changes = {}, []

    def name(self, role, n):
        return role if self.roles[role][0] == 1 else f"{role}{n + 1}"

    def members(self):
        for place, (role, (count, _)) in enumerate(self.roles.items()):
            for n in range(count):
                yield {
                    "name": self.name(role, n),
                    "role": role,
                    "addr": f"10.0.{place}.{n + 2}:7946",
                    "port": 53 if role == "dnsserver" else 8080,
                    "admin_port": 9790,
                    "state": self.state(role, n),
                    "instance": START_MS - 3_600_000 + n,
                    "tags": {"version": "1.4.2", "zone": "ab"[n % 2]},
                }

    def state(self, role, n):
        told = {("api", 1): "draining", ("billing", 1): "unhealthy"}
        if self.kind == "states":
            told |= {("api", 0): "joining", ("api", 2): "checking", ("web", 0): "alone", ("web", 1): "left", ("web", 2): "failed"}
        return self.states.get(self.name(role, n)) or told.get((role, n), "ready")

    def change(self, name, role, state):
        self.states[name] = state
        self.changes.append({"change": {"name": name, "role": role, "state": state}})

    def recent(self):
        words = [("api5", "api", "joining"), ("api5", "api", "checking"), ("api5", "api", "ready"), ("billing2", "billing", "unhealthy")]
        changes = [{"change": {"name": name, "role": role, "state": state}} for name, role, state in words]
        changes.append({"event": {"name": "deploy", "origin": "web1"}})
        changes.append({"change": {"name": "api2", "role": "api", "state": "draining"}})
        changes += self.changes
        return [{"number": n + 1, "at_ms": START_MS + 7_000 * n} | what for n, what in enumerate(changes)]

    def at(self, path, query):
        told = getattr(self, "tell_" + path)(*[query] if path == "explain" else [])
        if self.kind == "hostile":
            told = self.poison(path, told)
        return told

    def tell_state(self):
        members = list(self.members())
        for member in members:
            if member["state"] == "unhealthy":
                member["check"] = "HTTP 503"
        return {
            "node": self.name("proxyserver", 0), "state": "ready", "role": "proxyserver", "cluster": "shop", "version": "0",
            "drain": {"state": "none"}, "consumers": 1, "stats": {}, "recent": self.recent(), "members": members,
        }

    def tell_load(self):
        self.second += 1
        nodes = []
        for asker in self.members():
            roles = [self.load(asker, role) for role in self.roles[asker["role"]][1]]
            if roles:
                nodes.append({"node": asker["name"], "roles": roles})
        nodes.append({"node": "api2", "held_up_by": ["proxyserver1", "web2"], "roles": []})
        return {"at_ms": START_MS + 1000 * self.second, "nodes": nodes, "missing": {}}

    def load(self, asker, role):
        told = {"role": role, "queued": 0, "answered": 0, "errors": 0, "times_us": {}, "endpoints": []}
        times = self.times.setdefault((asker["name"], role), {})
        for n, end in enumerate(member for member in self.members() if member["role"] == role):
            is_slow, is_going = (role, n) == ("api", 3), end["state"] != "ready"
            wave = 1 + 0.35 * math.sin(self.second / 6 + n + len(asker["name"]))
            rate = 0 if is_going else int(wave * {"web": 240, "api": 90, "billing": 35}[role])
            us = (58_000 if is_slow else {"web": 9_000, "api": 3_800, "billing": 14_000}[role]) * (1 + 0.1 * math.sin(self.second + n))
            failures = rate // 40 if role == "billing" and self.second % 3 == 0 else 0
            key = (asker["name"], end["name"])
            requests, failed, timed_us = self.totals.get(key, (0, 0, 0))
            self.totals[key] = requests, failed, timed_us = requests + rate, failed + failures, timed_us + int(rate * us)
            bound = next(bound for bound in (4095, 10239, 16383, 24575, 65535, 131071) if us <= bound)
            times[bound] = times.get(bound, 0) + rate
            told["answered"] += requests
            told["errors"] += failed
            told["endpoints"].append({
                "node": end["name"], "instance": end["instance"], "addr": end["addr"].replace("7946", "8080"),
                "in_flight": 2 if is_going and asker["name"] in ("proxyserver1", "web2") and role == "api" else int(rate * us / 1e6),
                "requests": requests, "failures": failed, "timed": requests, "timed_us": timed_us,
            })
        told["times_us"] = {str(bound): count for bound, count in times.items()}
        return told

    def tell_explain(self, query):
        if query.startswith(("request=", "failed")):
            return self.tell_requests(query.partition("=")[2])
        member = next(self.members())
        return {
            "by": member["name"], "member": member, "since_ms": START_MS - 60_000, "evidence": "gossip", "advert": None,
            "heard_ms_ago": 120, "lifeline": False, "twins": [], "drain": None,
        }

    def tell_requests(self, wanted):
        """Two requests, of which one went on to the other endpoint and one found none; each at two hops. Of other ids it is told what is kept."""
        def attempt(node, other, failure=None):
            drawn = [{"node": name, "addr": "10.0.0.1:8080", "in_flight": n, "weight": 100, "grown_percent": 100 - 60 * n} for n, name in enumerate((node, other))]
            return {"node": node, "addr": "10.0.1.2:8080", "instance": START_MS, "by": "load", "generation": 7, "drawn": drawn, "is_reused": failure is None,
                    "failure": failure, "failed_us": 1200 if failure else None}

        def hop(node, program, id, at_us, role, attempts, status, end="done", **more):
            return {"node": node, "program": program, "id": id, "at_us": START_MS * 1000 + at_us, "cause": "failed", "client": "192.0.2.7:40000", "method": "GET",
                    "host": "shop.example", "path": "/basket", "route": "shop.example/", "role": role, "attempts": attempts, "queue_us": 700, "connect_us": None,
                    "first_byte_us": 9100, "whole_us": 9300, "status": status, "end": end, "draining": ["api2"]} | more

        hops = [
            hop("proxyserver1", "proxy", "again-1", 0, "web", [attempt("web1", "web2", "connect-failed"), attempt("web2", "web3")], 200, next_best={"route": "/", "why_not": "shorter"}),
            hop("web2", "front", "again-1", 2100, "api", [attempt("api1", "api3")], 200),
            hop("proxyserver2", "proxy", "none-2", 9_000_000, "billing", [], 503, "no billing is ready", is_cut=True, draining_untold=2),
        ]
        kept = {"failed": {"count": 3, "room": 512, "since_us": None}, "sampled": {"count": 512, "room": 512, "since_us": START_MS * 1000}}
        keepers = [{"node": "proxyserver1", "program": "proxy", "kept": kept}, {"node": "proxyserver2", "program": "proxy", "kept": {}, "is_nameless": True}]
        return {"hops": [hop for hop in hops if wanted in ("", hop["id"])], "keepers": keepers, "missing": {"web3": "did not answer in time"}}

    def poison(self, path, told):
        """Everything that somebody else may have chosen is HTML, and more than the protocol allows."""
        if path == "state":
            told["cluster"] = EVIL
            for n, member in enumerate(told["members"]):
                member["tags"] = {EVIL: EVIL, "__proto__": EVIL}
                member["check"], member["routes"] = EVIL, [EVIL]
                member["addr"] = "javascript:document.title='evil'//:1" if n % 2 else member["addr"]
                if n % 3 == 0:
                    member["name"] += EVIL
                if n % 5 == 4:
                    member["role"], member["state"] = "constructor", "__proto__"
            told["recent"].append({"number": 99, "at_ms": START_MS, "event": {"name": EVIL, "origin": EVIL}})
        elif path == "load":
            told["missing"] = {EVIL: EVIL}
            told["nodes"].append({"node": "api2", "held_up_by": [EVIL], "roles": []})
        elif "hops" in told:
            for hop in told["hops"]:
                hop["path"] = hop["end"] = hop["client"] = hop["route"] = hop[EVIL] = EVIL
                hop["attempts"] = hop["attempts"] and [dict(one, addr=EVIL, failure=EVIL, by=EVIL) for one in hop["attempts"]]
            told["missing"] = {EVIL: EVIL}
        else:
            told["evidence"], told["alone"], told["twins"] = EVIL, EVIL, [{"addr": EVIL, "instance": 1}]
        return told


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path in PAGES:
            name, kind = PAGES[path]
            body = (FILES / name).read_bytes()
        elif path[1:] in ("state", "load", "explain"):
            kind, body = "application/json", json.dumps(self.server.cluster.at(path[1:], query)).encode()
        else:
            return self.send_error(404)
        self.send_response(200)
        for field, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")):
            self.send_header(field, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    port, kind = int(sys.argv[1]) if len(sys.argv) > 1 else 0, sys.argv[2] if len(sys.argv) > 2 else "shop"
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.cluster, server.daemon_threads = Cluster(kind), True
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

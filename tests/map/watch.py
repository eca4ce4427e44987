#!/usr/bin/env python3
"""Opens the live map in a real browser and says what it shows of each node, and when: MS_SINCE_1970 NODE, ROLE, STATE, and why.

    tests/map/watch.py PROFILE_FOLDER URL

It speaks Chromium's own protocol over two pipes, each message ended by a zero byte. The browser ends with its pipes.
"""

import json
import os
import subprocess
import sys

# Says what each tile is called when it is first seen and whenever that changes: NODE, ROLE, STATE and why.
LOOK = """
    (() => {
        const seen = new WeakMap();
        const look = () => {
            for (const tile of document.querySelectorAll('.tile')) {
                const label = tile.getAttribute('aria-label');
                if (seen.get(tile) !== label) { seen.set(tile, label); shown(`${Date.now()} ${label}`); }
            }
        };
        new MutationObserver(look).observe(document, { attributes: true, childList: true, subtree: true });
        look();
    })()
"""


def main(profile, url):
    to_browser, orders = os.pipe()
    answers, from_browser = os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4.
    command = f"exec 3<&{to_browser} 4>&{from_browser}; exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
    command += f"--no-first-run --disable-extensions --disable-background-networking --remote-debugging-pipe --user-data-dir={profile}"
    browser = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(to_browser, from_browser), env={**os.environ, "NO_PROXY": "*"}, stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(from_browser)
    count = 0

    def order(method, session=None, **params):
        nonlocal count
        count += 1
        message = {"id": count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(orders, json.dumps(message).encode() + b"\0")
        return count

    def look(session):
        order("Runtime.enable", session)
        order("Runtime.addBinding", session, name="shown")
        order("Runtime.evaluate", session, expression=LOOK)

    making = order("Target.createTarget", url="about:blank")
    attaching, session, left = None, None, b""
    while data := os.read(answers, 1 << 16):
        *messages, left = (left + data).split(b"\0")
        for message in map(json.loads, messages):
            if message.get("id") == making:
                attaching = order("Target.attachToTarget", targetId=message["result"]["targetId"], flatten=True)
            elif attaching and message.get("id") == attaching:
                session = message["result"]["sessionId"]
                order("Page.enable", session)
                order("Page.navigate", session, url=url)
            elif message.get("method") == "Page.loadEventFired":
                look(session)
            elif message.get("method") == "Runtime.bindingCalled":
                print(message["params"]["payload"], flush=True)
    browser.wait()


main(*sys.argv[1:])

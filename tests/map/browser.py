"""Chromium without a screen, by its own protocol over two pipes: each message ends with a zero byte. The browser ends with its pipes."""

import json
import os
import select
import subprocess
import time

# How long it may take to answer: the machine may be busy.
PATIENCE_S = 60
FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions --disable-background-networking --remote-debugging-pipe"


class Page:
    """A browser with one page."""

    def __init__(self, profile):
        to_browser, self.orders = os.pipe()
        self.answers, from_browser = os.pipe()
        # The browser reads descriptor 3 and writes descriptor 4.
        command = f"exec 3<&{to_browser} 4>&{from_browser}; exec chromium {FLAGS} --user-data-dir={profile}"
        self.browser = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(to_browser, from_browser), env={**os.environ, "NO_PROXY": "*"}, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.count, self.session, self.left, self.waiting = 0, None, b"", []
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.order("Page.enable")
        self.order("Runtime.enable")

    def order(self, method, **params):
        """Has it do something, and waits for the answer. Meanwhile, what else it says is put aside."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.orders, json.dumps(message).encode() + b"\0")
        aside = []
        while (said := self.hear()).get("id") != self.count:
            aside.append(said)
        self.waiting = aside + self.waiting
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def hear(self, patience_s=PATIENCE_S):
        """What it says next."""
        deadline = time.monotonic() + patience_s if patience_s else None
        while b"\0" not in self.left:
            if deadline and not select.select([self.answers], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium has said nothing for {patience_s} s")
            if not (data := os.read(self.answers, 1 << 16)):
                raise EOFError("Chromium has ended")
            self.left += data
        message, _, self.left = self.left.partition(b"\0")
        return json.loads(message)

    def events(self):
        """What it says by itself, for ever."""
        while True:
            yield self.waiting.pop(0) if self.waiting else self.hear(None)

    def open(self, url):
        """Goes there, and waits until it is loaded."""
        self.waiting.clear()
        self.order("Page.navigate", url=url)
        for event in self.events():
            if event.get("method") == "Page.loadEventFired":
                return

    def run(self, script):
        """The value of an expression in the page, or what a promise brings."""
        told = self.order("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, what, script):
        """Waits until an expression is true; its value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so: {what}")
            time.sleep(0.05)
        return value

    def press(self, key, text=""):
        for kind in ("keyDown", "keyUp"):
            self.order("Input.dispatchKeyEvent", type=kind, key=key, **({"text": text} if text and kind == "keyDown" else {}))

    def type(self, text):
        self.order("Input.insertText", text=text)

    def click(self, selector):
        at = self.run(f"(() => {{ const at = document.querySelector({json.dumps(selector)}).getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.order("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def size(self, width, height):
        self.order("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, **features):
        self.order("Emulation.setEmulatedMedia", features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()])

    def close(self):
        os.close(self.orders)
        self.browser.wait(PATIENCE_S)

#!/usr/bin/env python3
"""Opens the live map in a real browser and says what it shows of each node, and when: MS_SINCE_1970 NODE, ROLE, STATE, and why.

    tests/map/watch.py PROFILE_FOLDER URL
"""

import sys

from browser import Page

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
    page = Page(profile)
    page.order("Runtime.addBinding", name="shown")
    page.open(url)
    page.run(LOOK)
    for event in page.events():
        if event.get("method") == "Runtime.bindingCalled":
            print(event["params"]["payload"], flush=True)


main(*sys.argv[1:])

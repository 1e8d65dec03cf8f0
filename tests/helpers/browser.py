"""A browser of the system, driven by playwright: none is downloaded."""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def program():
    """The path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def opened(address):
    """A page of the browser, and the list of all addresses that it asks for.

    The browser finds no host but this machine.
    """
    from playwright.sync_api import sync_playwright

    asked = []
    options = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-gpu"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=options)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.set_default_timeout(120_000)  # of a test that fails
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            yield page, asked
        finally:
            browser.close()


def elsewhere(addresses):
    """Those of other hosts."""
    schemes = ("data", "blob", "about")
    split = map(urlsplit, addresses)
    return [one for one in split if one.scheme not in schemes and one.hostname != "127.0.0.1"]

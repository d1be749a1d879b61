"""web_fetch: against a server on this machine, and the rules of what may be fetched."""

import asyncio
import gzip
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loomd.settings import ConfigError
from loomd.settings import parse as parse_settings
from loomd.tools import Context, ToolError, fetch
from loomd.tools.builtin.web_fetch import SHOWN, web_fetch
from loomd.tools.readable import readable
from tests.tools.stand import Table, git_repo, hosting

PAGE = """<!doctype html><html><head><title> A  page </title><style>p {}</style></head><body>
<nav>menu</nav><h1>One</h1><p>Some <b>bold</b> text,
with a <a href="/next?x=1">link</a> and <code>code</code>.</p>
<script>alert("no")</script><ul><li>first</li><li>second<ol><li>inner</li></ol></li></ul>
<pre>def f():
    return 1</pre><table><tr><td>a</td><td>b</td></tr></table>&lt;tag&gt; caf&eacute;
</body></html>"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.paths.append(self.path)
        name, _, more = self.path[1:].partition("?")
        getattr(self, f"say_{name}", self.missing)(more)

    def reply(self, body, kind="text/plain; charset=utf-8", status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def missing(self, more):
        self.reply(b"nothing here", status=404)

    def say_page(self, more):
        self.reply(PAGE.encode(), "text/html")

    def say_latin(self, more):
        self.reply("caf\xe9".encode("latin-1"), "text/plain; charset=latin-1")

    def say_meta(self, more):
        self.reply(b'<meta charset="latin-1"><p>caf\xe9</p>', "text/html")

    def say_packed(self, more):
        self.reply(gzip.compress(b"packed text"), Content_Encoding="gzip")

    def say_bomb(self, more):
        self.reply(gzip.compress(b"\0" * (20 << 20)), Content_Encoding="gzip")

    def say_brotli(self, more):
        self.reply(b"x", Content_Encoding="br")

    def say_image(self, more):
        self.reply(b"\x89PNG\r\n\x1a\n", "image/png")

    def say_long(self, more):
        self.reply(b"x" * (SHOWN + 10))

    def say_redirect(self, more):
        self.reply(b"", status=302, Location=more)

    def say_loop(self, more):
        self.reply(b"", status=302, Location=f"/loop?{int(more or 0) + 1}")

    def say_endless(self, more):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.server.released.wait(30)

    def say_cut(self, more):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True


@pytest.fixture(scope="module")
def base():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    server.paths, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def at(base):
    return f"127.0.0.1:{base.server_address[1]}"


def ctx_of(tmp_path, *private):
    return Context(repo=tmp_path, limits={"web_private": list(private)})


def refused(code, said, url, ctx, **more):
    with pytest.raises(ToolError) as caught:
        web_fetch(url, ctx, **more)
    assert caught.value.code == code and said in caught.value.text, caught.value.text


def test_a_page_is_readable(at, tmp_path):
    found = web_fetch(f"http://{at}/page", ctx_of(tmp_path, at))
    assert found.ok and found.data["status"] == 200
    assert found.text == (
        f"[http://{at}/page: A page]\n# One\n\nSome bold text, with a link (http://{at}/next?x=1) "
        "and `code`.\n\n- first\n- second\n  1. inner\n\n"
        "```\ndef f():\n    return 1\n```\n\na | b\n\n"
        "<tag> café"
    )


def test_encodings_and_packings(at, tmp_path):
    ctx = ctx_of(tmp_path, "127.0.0.1")
    assert web_fetch(f"http://{at}/latin", ctx).text.endswith("café")
    assert web_fetch(f"http://{at}/meta", ctx).text.endswith("café")
    assert web_fetch(f"http://{at}/packed", ctx).text.endswith("packed text")
    refused("too_large", "more than", f"http://{at}/bomb", ctx)
    refused("failed", "packed as br", f"http://{at}/brotli", ctx)
    refused("failed", "no text (PNG image, 8 bytes)", f"http://{at}/image", ctx)


def test_a_long_page_is_read_part_by_part(at, tmp_path):
    ctx = ctx_of(tmp_path, at)
    first = web_fetch(f"http://{at}/long", ctx).text
    assert first.endswith(f"continue with offset={SHOWN}]")
    assert web_fetch(f"http://{at}/long", ctx, offset=SHOWN).text.endswith("\n" + "x" * 10)
    refused("bad_args", "has 50010 characters", f"http://{at}/long", ctx, offset=99_999)
    missing = web_fetch(f"http://{at}/zzz", ctx)
    assert (missing.ok, missing.error) == (False, "not_found") and "answered 404" in missing.text


def test_redirects_are_followed_and_judged(at, base, tmp_path):
    ctx = ctx_of(tmp_path, at)
    assert "packed text" in web_fetch(f"http://{at}/redirect?/packed", ctx).text
    refused("failed", "more than 5 times", f"http://{at}/loop", ctx)
    refused("denied", "private address", f"http://{at}/redirect?http://127.0.0.2:1/", ctx)
    refused("bad_args", "only http", f"http://{at}/redirect?file:///etc/passwd", ctx)


def test_private_addresses_are_refused_before_anything_is_sent(at, base, tmp_path):
    before = len(base.paths)
    port = at.partition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
        refused("denied", "private address", f"http://{host}:{port}/page", ctx_of(tmp_path))
    refused("denied", "private address", f"http://{at}/page", ctx_of(tmp_path, "127.0.0.1:1"))
    assert len(base.paths) == before


ADDRESSES = [
    ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False),
    ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
    ("169.254.169.254", False),
    ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False),
    ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False),
    ("ff02::1", False),
    ("::ffff:10.0.0.1", False), ("64:ff9b::10.0.0.1", False), ("2002:a00:1::", False),
    ("nonsense", False),
]  # fmt: skip


def test_which_addresses_are_public():
    assert [(one, fetch.public(one)) for one, _ in ADDRESSES] == ADDRESSES


def test_what_is_no_address(tmp_path):
    for url in ("", "ftp://x/", "file:///etc/passwd", "http://", "http://u:p@x/", "http://x:99999/",
                "x", "http://a b/",
                "http://x/\r\nHost: y", "javascript:1"):  # fmt: skip
        refused("bad_args", "", url, ctx_of(tmp_path))


def test_what_takes_too_long_or_breaks_off(at, base):
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch(f"http://{at}/endless", [at], timeout_s=0.2)
    base.released.set()
    assert caught.value.code == "timeout"
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch(f"http://{at}/cut", [at])
    assert caught.value.code == "failed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody else's while it is bound
        with pytest.raises(fetch.FetchError, match="refused"):
            fetch.fetch(f"http://127.0.0.1:{port}/", ["127.0.0.1"])
    with pytest.raises(fetch.FetchError, match=r"no secure connection|SSL|EOF"):
        fetch.fetch(f"https://{at}/page", [at], timeout_s=5)


def test_broken_html_is_read_as_well_as_it_goes():
    assert readable("<p>a<p>b</div></b>c<script>x") == ("", "a\n\nb\n\nc")
    assert readable("<nav><ul><li>x</nav>y")[1] == "y"
    assert readable("a &amp; b<br>c")[1] == "a & b\nc"


# --- through the tool host -----------------------------------------------------------------------


def test_it_is_off_until_it_is_switched_on_and_then_by_permission(at, base, instance):
    repo = git_repo(instance.base / "repo", {"a.py": "x\n"})
    table = Table(instance.places.blobs)

    def offered():
        [row] = [row for (name, _), row in table.rows_.items() if name == "toolsets"]
        return "web_fetch" in {tool["name"] for tool in row["tools"]}

    async def off():
        async with hosting(instance.places, repo, table) as host:
            await host.ready()
            result = await host.result("web_fetch", url=f"http://{at}/packed")
            assert result.error == "denied" and "tools.web_fetch = true" in result.text
            assert not offered()

    async def on():
        settings = {"permissions": {"mode": "on-request"},
                    "tools": {"web_fetch": True, "web_private": [at]}}  # fmt: skip
        async with hosting(instance.places, repo, table, settings, yes=False) as host:
            await host.ready()
            id = host.begin("web_fetch", url=f"http://{at}/packed")
            assert offered() and f"call-{id}" in host.state.waiting  # a person is asked
        async with hosting(instance.places, repo, table, settings) as host:
            await host.ready()
            result = await host.result("web_fetch", url=f"http://{at}/packed")
            assert result.ok and result.text.endswith("packed text"), result

    asyncio.run(off())
    asyncio.run(on())


def test_the_settings():
    made = parse_settings('[tools]\nweb_fetch = true\nweb_private = ["LocalHost:80"]')
    assert made.as_dict()["tools"] == {"web_fetch": True, "web_private": ["localhost:80"]}
    for wrong in ("web_fetch = 1", "web_private = [1]", 'web_private = ["http://x/"]', "web = 1"):
        with pytest.raises(ConfigError):
            parse_settings(f"[tools]\n{wrong}")

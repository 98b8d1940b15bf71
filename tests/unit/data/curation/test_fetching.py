"""Images behind HTTP: what is tried again, what is given up, and which addresses are never connected to."""

import http.server
import socket
import threading
import time
from collections import Counter

import pytest

from softalign.config import HttpConfig, TableSource
from softalign.data.curation import fetching
from softalign.data.curation.addresses import is_public
from softalign.data.curation.fetch_errors import FetchError
from softalign.data.curation.fetching import fetch
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.rejections import Flaw, ItemError
from softalign.data.curation.sources import list_samples
from softalign.data.curation.urls import UrlImages
from softalign.errors import StorageUnavailableError

ALLOWED = HttpConfig(allow_private_addresses=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the first part of the path says; counts requests, and how many there are at once."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        server, (_, kind, *rest) = self.server, self.path.split("/")
        with server.lock:
            server.asked[self.path] += 1
            number = server.asked[self.path]
            server.present += 1
            server.most = max(server.most, server.present)
        try:
            getattr(self, f"_{kind}")(rest, number)
        finally:
            with server.lock:
                server.present -= 1

    def _send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def _ok(self, rest, number):
        self._send(200, "/".join(rest).encode())

    def _status(self, rest, number):
        self._send(int(rest[0]))

    def _twice(self, rest, number):
        """Fail twice in the way that is named, then answer."""
        if number > 2:
            return self._send(200, b"at last")
        if rest[0] == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"some")
            self.close_connection = True
            return None
        return self._send(int(rest[0]), Retry_After="0")

    def _later(self, rest, number):
        self._send(200 if number > 1 else 429, b"x", Retry_After=rest[0])

    def _to(self, rest, number):
        """Redirect to what follows."""
        self._send(302, Location="/".join(rest))

    def _large(self, rest, number):
        self._send(200, b"x" * int(rest[0]))

    def _endless(self, rest, number):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(2000):
                self.wfile.write(b"x" * 1000)
        except OSError:
            pass

    def _drip(self, rest, number):
        """Send the headers, or the body, a byte at a time."""
        if rest[0] == "body":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
        self.close_connection = True
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def _steady(self, rest, number):
        """Send three MiB, each within less time than a try of one image may take."""
        self.send_response(200)
        self.send_header("Content-Length", str(3 << 20))
        self.end_headers()
        for _ in range(3):
            time.sleep(0.2)
            self.wfile.write(b"x" * (1 << 20))

    def _files(self, rest, number):
        """Send what the test has put there."""
        data = self.server.files.get("/".join(rest).partition("?")[0])
        self._send(*((404,) if data is None else (200, data)))

    def _slow(self, rest, number):
        time.sleep(0.05)
        self._send(200, b"x")


@pytest.fixture
def server():
    """Return a server and its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.lock, made.asked, made.present, made.most = threading.Lock(), Counter(), 0, 0
        made.files = {}
        made.uri = f"http://127.0.0.1:{made.server_address[1]}"
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Take no time between tries, and return how long each wait would have been."""
    found = []

    class Clock:
        monotonic = staticmethod(time.monotonic)
        sleep = staticmethod(found.append)

    monkeypatch.setattr(fetching, "time", Clock)
    fetching._client.cache_clear()
    return found


@pytest.fixture
def names(monkeypatch):
    """Return a mapping of host names to addresses that takes the place of name servers."""
    known, look_up = {}, socket.getaddrinfo

    def answer(host, port, *args, **kwargs):
        if host in known:
            return [entry for address in known[host] for entry in look_up(address, port, *args, **kwargs)]
        if host.endswith(".example"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def error_of(url, config=ALLOWED, **trusted):
    with pytest.raises(FetchError) as caught:
        fetch(url, config, **trusted)
    return caught.value


def flaw_of(url, config=ALLOWED):
    with pytest.raises(ItemError) as caught:
        UrlImages(config).read(url)
    return caught.value.flaw


def test_what_lies_behind_a_url(server):
    assert fetch(f"{server.uri}/ok/a", ALLOWED) == b"a"
    assert fetch(f"{server.uri}/ok/\u00fc b?x=1 2#frag", ALLOWED) == b"%C3%BC%20b?x=1%202"
    assert fetch(f"{server.uri}/ok/%20a%2Fb", ALLOWED) == b"%20a%2Fb", "what is escaped stays so"


@pytest.mark.parametrize("failure", ["500", "503", "429", "408", "cut"])
def test_what_may_pass_is_tried_again_with_longer_waits(server, waits, failure):
    assert fetch(f"{server.uri}/twice/{failure}", ALLOWED) == b"at last"
    assert 0.5 <= waits[0] <= 0.75
    assert 1.0 <= waits[1] <= 1.5
    url = f"{server.uri}/twice/{failure}/again"
    assert error_of(url, ALLOWED.model_copy(update={"max_tries": 2})).may_pass


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("9" * 50, 30.0), ("Fri, 31 Dec 1999", None)])
def test_a_server_that_asks_to_wait_is_waited_for(server, waits, asked, waited):
    assert fetch(f"{server.uri}/later/{asked.replace(' ', '%20')}", ALLOWED) == b"x"
    assert waits == [waited] if waited else waits[0] < 1


@pytest.mark.parametrize(
    ("status", "flaw"),
    [
        (404, Flaw("missing_image")),
        (410, Flaw("missing_image", "HTTP 410")),
        (401, Flaw("access_refused", "HTTP 401")),
        (403, Flaw("access_refused", "HTTP 403")),
        (204, Flaw("unreadable_file", "HTTP 204")),
        (418, Flaw("unreadable_file", "HTTP 418")),
    ],
)
def test_what_will_not_pass_is_tried_once(server, waits, status, flaw):
    assert flaw_of(f"{server.uri}/status/{status}") == flaw
    assert (waits, server.asked.total()) == ([], 1)


def test_failures_of_the_network_are_told_in_stable_words(server, names):
    closed = f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    assert flaw_of(closed) == Flaw("unreadable_file", "broken connection")
    assert flaw_of("http://nowhere.example/a.jpg") == Flaw("unreadable_file", "an unknown host")
    assert flaw_of("https://nowhere.example\u00fc\u0300..x/a.jpg").reason == "unreadable_file"


def test_a_file_above_the_cap_is_given_up(server):
    assert len(fetch(f"{server.uri}/large/1000", ALLOWED, 1000)) == 1000
    for url in (f"{server.uri}/large/1001", f"{server.uri}/endless"):
        for read in (lambda: UrlImages(ALLOWED).read(url, 1000), lambda: ImageFolder(url).read("", 1000)):  # noqa: B023
            with pytest.raises(ItemError) as caught:
                read()
            assert caught.value.flaw == Flaw("too_many_bytes", "more than 1000 bytes")
    assert server.asked.total() == 5, "it is not tried again"


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_ends_at_the_timeout(server, part):
    config = ALLOWED.model_copy(update={"timeout_s": 0.3, "max_tries": 1})
    started = time.monotonic()
    assert flaw_of(f"{server.uri}/drip/{part}", config) == Flaw("unreadable_file", "took too long")
    assert time.monotonic() - started < 3


def test_one_image_that_never_comes_is_no_failure_of_its_folder(server):
    config = HttpConfig(timeout_s=0.2, max_tries=1)
    folder = ImageFolder(server.uri, ("ok/a", "drip/body"), config)
    with pytest.raises(ItemError) as caught:
        folder.read("drip/body")
    assert caught.value.flaw == Flaw("unreadable_file", "took too long")
    with pytest.raises(StorageUnavailableError):
        ImageFolder(server.uri, ("drip/headers",), config).read("drip/body")


def test_requests_at_once_to_one_host_are_limited(server):
    config = ALLOWED.model_copy(update={"max_per_host": 2})
    threads = [threading.Thread(target=fetch, args=(f"{server.uri}/slow/{n}", config)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (server.asked.total(), server.most) == (6, 2)


def test_redirects_are_followed_some_way(server):
    assert fetch(f"{server.uri}/to/{server.uri}/ok/a", ALLOWED) == b"a"
    assert fetch(f"{server.uri}/to//ok/b", ALLOWED) == b"b", "relative ones too"
    url = f"{server.uri}/ok/c"
    for _ in range(6):
        url = f"{server.uri}/to/{url}"
    assert error_of(url).detail == "too many redirects"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a", "http://user:word@host/a", "http://[::1"])
def test_a_redirect_to_what_is_no_web_address_is_refused(server, target):
    assert flaw_of(f"{server.uri}/to/{target}") == Flaw("access_refused", "no address to fetch from")


def test_private_addresses_are_refused_unless_allowed(server, names):
    port = server.server_address[1]
    names["photos.example"] = ["127.0.0.1"]
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"):
        assert flaw_of(f"http://{host}:{port}/ok/a", HttpConfig()) == Flaw("access_refused", "a private address")
    assert flaw_of(f"http://photos.example:{port}/ok/a", HttpConfig()).reason == "access_refused"
    assert server.asked.total() == 0, "nothing was asked"
    assert fetch(f"http://photos.example:{port}/ok/a", ALLOWED) == b"a"


def test_a_redirect_to_a_private_address_is_refused(server, names):
    """A host that a recipe names itself is trusted, and no other, even of the same machine."""
    port = server.server_address[1]
    folder = ImageFolder(f"{server.uri}/ok", ("a.jpg", "b.jpg"))
    assert folder.read("a.jpg") == b"a.jpg"
    names["inner.example"] = ["127.0.0.1"]
    for target in (f"http://localhost:{port}/ok/x", "http://127.0.0.1:1/x", f"http://inner.example:{port}/ok/x"):
        error = error_of(f"{server.uri}/to/{target}", HttpConfig(), trusted_uri=f"{server.uri}/to")
        assert error.detail == "a private address"
    assert fetch(f"{server.uri}/to/{server.uri}/ok/x", HttpConfig(), trusted_uri=server.uri) == b"x"


def test_of_a_hosts_addresses_the_public_ones_are_connected_to_as_they_were_looked_up(monkeypatch, names):
    names["photos.example"] = ["10.0.0.7", "93.184.216.34", "127.0.0.1", "93.184.216.35"]
    asked = []

    class Backend:
        def connect_tcp(self, host, port, *_):
            asked.append((host, port))
            names["photos.example"] = ["127.0.0.1"]  # what a second look-up would find
            raise fetching.httpcore.ConnectError

    monkeypatch.setattr(fetching.httpcore, "SyncBackend", Backend)
    error_of("http://photos.example/a", HttpConfig(max_tries=1))
    assert asked == [("93.184.216.34", 80), ("93.184.216.35", 80)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a00:1::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_which_addresses_are_public(address, expected):
    assert is_public(address) is expected


def test_a_machine_that_is_cut_off_ends_the_run(names, server):
    config = ALLOWED.model_copy(update={"max_tries": 1})
    for number in range(fetching.MAX_SILENT_HOSTS - 1):
        assert flaw_of(f"http://{number}.example/a", config).detail == "an unknown host"
        flaw_of("http://0.example/b", config)
    assert fetch(f"{server.uri}/ok/a", config) == b"a"  # one answer, and the count begins anew
    for number in range(fetching.MAX_SILENT_HOSTS - 1):
        flaw_of(f"http://{number}.example/a", config)
    with pytest.raises(StorageUnavailableError, match="any host"):
        UrlImages(config).read("http://last.example/a")


def test_urls_in_a_table(tmp_path, server, store, configure, make_picture):
    make_picture(1).save(tmp_path / "a.png")
    names = [
        "a.png",
        f"{server.uri}/large/9",
        f"{server.uri}/ok/x",
        "https://user:word@host/b.png",
        "http://",
        "ftp://h/x",
    ]
    rows = "".join(f"{name},caption of {number}\n" for number, name in enumerate(names))
    (tmp_path / "t.csv").write_text(f"file_name,caption\n{rows}")
    refused = TableSource(table_uri=str(tmp_path / "t.csv"), images_uri=str(tmp_path))
    flaws = {s.filename: s.flaw for s in list_samples(refused, "s", tmp_path)}
    assert [flaws[name] for name in names] == [None, *[Flaw("unsafe_path", "a URL")] * 5]
    source = refused.model_copy(update={"allow_urls": True, "http": ALLOWED})
    flaws = {s.filename: s.flaw.detail for s in list_samples(source, "s", tmp_path) if s.flaw}
    assert flaws == {names[3]: "a URL with a password", names[4]: "no whole URL", names[5]: "a URL"}
    manifest = curate(configure(source), store, "k")
    assert {r.reason: r.count for r in manifest.rejected} == {"corrupt_image": 2, "unsafe_path": 3}
    assert manifest.num_samples == 1

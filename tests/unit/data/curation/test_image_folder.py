"""Image folders: one file's failure is told apart from the store's, and names mean files, whatever is in them."""

import errno
import http.server
import os
import threading
import unicodedata
import urllib.parse
from typing import ClassVar

import fsspec
import pytest
from aiohttp import ClientResponseError, RequestInfo
from fsspec.spec import AbstractFileSystem
from yarl import URL

from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.rejections import Flaw, ItemError
from softalign.errors import ConfigError, StorageUnavailableError


class AnsweringFileSystem(AbstractFileSystem):
    """Answers each name by what a test put under it: content, or an error to raise; a list is used up in order."""

    protocol = "answering"
    answers: ClassVar = {}

    def cat_file(self, path, start=None, end=None, **kwargs):
        answer = self.answers[path.rpartition("/")[2]]
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


def http_error(status):
    request = RequestInfo(url=URL("http://host/bad"), method="GET", headers={}, real_url=URL("http://host/bad"))
    return ClientResponseError(request_info=request, history=(), status=status)


@pytest.fixture
def answering(monkeypatch):
    """Return a function that makes a folder of answers."""
    fsspec.register_implementation("answering", AnsweringFileSystem, clobber=True)

    def make(**answers):
        monkeypatch.setattr(AnsweringFileSystem, "answers", answers)
        return ImageFolder("answering://images", tuple(answers))

    return make


def flaw_of(folder, name):
    with pytest.raises(ItemError) as caught:
        folder.read(name)
    return caught.value.flaw


@pytest.mark.parametrize(
    ("error", "flaw"),
    [
        (FileNotFoundError("x"), Flaw("missing_image")),
        (http_error(410), Flaw("missing_image", "HTTP 410")),
        (IsADirectoryError(errno.EISDIR, "x"), Flaw("missing_image", "a folder")),
        (PermissionError(errno.EACCES, "x"), Flaw("access_refused", "EACCES")),
        (http_error(403), Flaw("access_refused", "HTTP 403")),
        (http_error(500), Flaw("unreadable_file", "HTTP 500")),
        (OSError(errno.EIO, "x"), Flaw("unreadable_file", "EIO")),
        (ConnectionResetError(errno.ECONNRESET, "x"), Flaw("unreadable_file", "broken connection")),
        (OSError("some text at 0x7f21"), Flaw("unreadable_file", "OSError")),
    ],
)
def test_one_file_fails_while_others_are_answered(answering, error, flaw):
    for other in (b"content", FileNotFoundError("a witness that is missing is answered too")):
        assert flaw_of(answering(bad=error, good=other), "bad") == flaw


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "x"), ConfigError),
        (http_error(403), ConfigError),
        (http_error(500), StorageUnavailableError),
        (OSError(errno.EIO, "x"), StorageUnavailableError),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), StorageUnavailableError),
    ],
)
def test_a_store_that_fails_for_all_its_files_is_no_items_failure(answering, error, expected):
    for others in ({"other": error}, {}):
        with pytest.raises(expected):
            answering(bad=error, **others).read("bad")


@pytest.mark.parametrize("error", [http_error(429), http_error(503), TimeoutError()])
def test_a_store_that_is_busy_may_answer_later(answering, error):
    with pytest.raises(StorageUnavailableError):
        answering(bad=error, good=b"content").read("bad")


def test_a_file_that_breaks_off_is_tried_again(answering):
    folder = answering(bad=[http_error(500), b"content"], good=b"x")
    assert folder.read("bad") == b"content"
    assert flaw_of(answering(bad=[http_error(500), FileNotFoundError("x")], good=b"x"), "bad").reason == "missing_image"


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), KeyError("a fault of ours")])
def test_what_is_no_answer_of_the_store_ends_the_run(answering, error):
    with pytest.raises(type(error)):
        answering(bad=error, good=b"x").read("bad")


def test_a_folder_that_cannot_be_opened():
    with pytest.raises(ConfigError):
        ImageFolder("nosuch://images", ("a", "b")).read("a")


def test_odd_things_in_a_folder(tmp_path):
    (tmp_path / "good.jpg").write_bytes(b"content")
    (tmp_path / "folder.jpg").mkdir()
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    os.symlink("nowhere.jpg", tmp_path / "dangling.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    names = (
        "folder.jpg",
        "loop.jpg",
        "dangling.jpg",
        "pipe.jpg",
        "zero.jpg",
        "good.jpg/below.jpg",
        "x" * 300,
        "gone.jpg",
    )
    flaws = [flaw_of(ImageFolder(str(tmp_path)), name) for name in names]
    assert {flaw.reason for flaw in flaws} == {"missing_image"}
    assert [flaw.detail for flaw in flaws] == [
        "a folder",
        "links in a circle",
        "",
        "no regular file",
        "no regular file",
        "below a file",
        "the name is too long",
        "",
    ]


def test_a_loop_of_links_above_the_file(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    assert flaw_of(ImageFolder(str(tmp_path)), "loop/a.jpg") == Flaw("missing_image", "links in a circle")


ODD_NAMES = (
    "a b.jpg",
    "50%25 off.jpg",
    "x%20y.jpg",
    "what?x=1.jpg",
    "shot#3.jpg",
    "set[1]{a,b}*.jpg",
    'it\'s "q".jpg',
    "album/a::b.jpg",
    "album/local::c.jpg",
    "12:30.jpg",
    "~home.jpg",
    "$HOME.jpg",
    "-rf.jpg",
    "\u732b/\u5199\u771f \U0001f600.jpg",
)


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_means_the_file_of_that_name(tmp_path, scheme, name):
    uri = f"{scheme}{tmp_path}"
    filesystem, root = fsspec.url_to_fs(uri)
    filesystem.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    with filesystem.open(f"{root}/{name}", "wb") as file:
        file.write(name.encode())
    assert ImageFolder(uri).read(name) == name.encode()


def test_a_file_of_another_spelling_is_read_where_none_has_the_name(tmp_path):
    composed = "caf\u00e9.jpg"
    decomposed = unicodedata.normalize("NFD", composed)
    for name in ("train/a.jpg", f"train/{decomposed}", "both/b.jpg", "both\\b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    folder = ImageFolder(str(tmp_path))
    assert folder.read("train\\a.jpg") == b"train/a.jpg"
    assert folder.read(f"train/{composed}") == folder.read(f"train\\{composed}") == f"train/{decomposed}".encode()
    assert folder.read("both\\b.jpg") == b"both\\b.jpg", "the name itself comes first"
    assert flaw_of(folder, f"train\\b{composed}") == Flaw("missing_image")


def test_a_store_that_fails_for_the_other_spelling_is_not_taken_for_a_missing_file(answering):
    folder = answering(**{"a\\b.jpg": FileNotFoundError("x"), "b.jpg": TimeoutError()})
    with pytest.raises(StorageUnavailableError):
        folder.read("a\\b.jpg")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ODD_NAMES as their own content; breaks off or refuses where the name says so."""

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        name = urllib.parse.unquote(self.path.split("?")[0]).removeprefix("/images/")
        body = name.encode()
        code = int(name[:3]) if name[:3].isdigit() else 200
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:2] if name.startswith("cut") else body)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Take no time between tries."""
    monkeypatch.setattr("softalign.data.curation.fetching.BACKOFF_S", 0.0)


@pytest.fixture
def served():
    """Return the URI of a folder behind HTTP."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/images"
        server.shutdown()


def test_images_behind_http(served):
    folder = ImageFolder(served, ("403.jpg", "good.jpg"))
    for name in ODD_NAMES:
        assert folder.read(name) == name.encode()
    assert flaw_of(folder, "404.jpg") == Flaw("missing_image")
    assert flaw_of(folder, "403.jpg") == Flaw("access_refused", "HTTP 403")
    assert flaw_of(folder, "500.jpg") == Flaw("unreadable_file", "HTTP 500")
    assert flaw_of(folder, "cut.jpg") == Flaw("unreadable_file", "broken connection")
    assert flaw_of(folder, "503.jpg") == Flaw("unreadable_file", "HTTP 503")
    for name, witnesses in (("429.jpg", ("good.jpg",)), ("503.jpg", ("503-too.jpg",))):
        with pytest.raises(StorageUnavailableError):
            ImageFolder(served, witnesses).read(name)
    with pytest.raises(ConfigError, match="refused access"):
        ImageFolder(served, ("403.jpg",)).read("403-too.jpg")


def test_a_server_that_is_gone_is_no_items_failure():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1]
    with pytest.raises(StorageUnavailableError):
        ImageFolder(f"http://127.0.0.1:{port}/images", ("good.jpg", "other.jpg")).read("good.jpg")


def test_of_a_local_file_above_the_limit_nothing_is_read(tmp_path, monkeypatch):
    (tmp_path / "fits").write_bytes(bytes(10))
    (tmp_path / "large").write_bytes(bytes(11))
    folder = ImageFolder(str(tmp_path))
    assert len(folder.read("fits", 10)) == 10
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ItemError) as caught:
        folder.read("large", 10)
    assert caught.value.flaw == Flaw("too_many_bytes", "more than 10 bytes")


@pytest.mark.usefixtures("answering")
def test_a_store_is_asked_for_no_more_than_the_limit(monkeypatch):
    asked, whole = [], {"fits": bytes(10), "large": bytes(1000), "empty": b""}

    def part(_self, path, start=None, end=None):
        data = whole[path.rpartition("/")[2]]
        asked.append(end)
        if start == 0 and not data:
            raise OSError(errno.EINVAL, "InvalidRange")
        return data[start:end]

    monkeypatch.setattr(AnsweringFileSystem, "cat_file", part)
    folder = ImageFolder("answering://bucket")
    assert [len(folder.read(name, 10)) for name in ("fits", "empty")] == [10, 0]
    with pytest.raises(ItemError, match="too_many_bytes"):
        folder.read("large", 10)
    assert asked == [11, 11, None, 11]

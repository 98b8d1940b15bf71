"""An MLflow server as far as a pull needs one, made of folders; it counts what it is asked."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from softalign.store.files import list_files

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts/"


class FakeRegistry:
    """One model's versions.

    Args:
        folders: a version's files each, beginning with version 1.
    """

    def __init__(self, name, folders, token=""):
        self.name, self.token, self.folders = name, token, [Path(folder) for folder in folders]
        self.aliases = {"champion": len(folders)}
        self.files_tags = [self.files_tag(list_files(folder)) for folder in self.folders]
        self.asked, self.logins = [], set()

    @staticmethod
    def files_tag(entries):
        return json.dumps([entry.model_dump(mode="json") for entry in entries])

    def version(self, number):
        tags = [{"key": "softalign.files", "value": self.files_tags[number - 1]}]
        source = f"mlflow-artifacts:/{number}/model"
        return {"name": self.name, "version": str(number), "source": source, "status": "READY", "tags": tags}

    def answer(self, path, query):
        """Return status and content for a request."""
        if path.startswith(FILES):
            found = re.fullmatch(r"(\d+)/model/(.+)", unquote(path.removeprefix(FILES)))
            file = self.folders[int(found[1]) - 1] / found[2]
            return (200, file.read_bytes()) if file.is_file() else (404, b"{}")
        if path == f"{API}/registered-models/alias" and query["alias"][0] in self.aliases:
            return 200, json.dumps({"model_version": self.version(self.aliases[query["alias"][0]])}).encode()
        if path == f"{API}/model-versions/get" and 1 <= int(query["version"][0]) <= len(self.folders):
            return 200, json.dumps({"model_version": self.version(int(query["version"][0]))}).encode()
        if path == f"{API}/registered-models/get":
            aliases = [{"alias": alias, "version": str(number)} for alias, number in self.aliases.items()]
            return 200, json.dumps({"registered_model": {"name": self.name, "aliases": aliases}}).encode()
        if path == f"{API}/model-versions/search":
            versions = [self.version(number + 1) for number in range(len(self.folders))]
            return 200, json.dumps({"model_versions": versions}).encode()
        return 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such thing"}).encode()


def make_server(registry):
    """Return a server of it on a free port of this machine, not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            registry.asked.append(parts.path)
            login = self.headers.get("Authorization")
            registry.logins.add(login)
            is_known = not registry.token or login == f"Bearer {registry.token}"
            status, data = registry.answer(parts.path, parse_qs(parts.query)) if is_known else (401, b"who are you?")
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    return Server(("127.0.0.1", 0), Handler)


@contextmanager
def serving(registry):
    """Serve it in a thread; yields the address."""
    server = make_server(registry)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def write_adapter(folder, value, size=64):
    """Write a version's files, all real; ``value`` tells versions apart."""
    import numpy
    from safetensors.numpy import save_file

    for place in (folder, folder / "initial"):
        place.mkdir(parents=True, exist_ok=True)
        weights = numpy.full((size, 16), value, numpy.float32)
        save_file({"soft_tokens.positive": weights}, str(place / "soft_tokens.safetensors"))
        (place / "adapter_config.json").write_text(json.dumps({"type": "SOFT_TOKENS", "value": value}))
    (folder / "MLmodel").write_text("flavors: {softalign: {loader: softalign.load_soft_tokens}}\n")
    return folder

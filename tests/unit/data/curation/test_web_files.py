"""Tables and archives behind HTTP: the rules of images, and errors that say what to do."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.config import (
    CocoSource,
    FolderSource,
    HFSource,
    HttpConfig,
    ParquetSource,
    TableSource,
    WebDatasetSource,
)
from softalign.config.recipe import Recipe
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.data.curation.pipeline import curate
from softalign.data.curation.sources import check_source, list_samples
from softalign.errors import ConfigError, DataError, MissingInputError, StorageUnavailableError
from softalign.stages.requests import StageInputs, curate_request
from tests.unit.data.curation.test_fetching import ALLOWED, names, server, waits  # noqa: F401  # fixtures

COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a red one"}],
}
CSV = b"file_name,caption\na.png,a red one\n"


def tar_of(**members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def bytes_of(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


@pytest.fixture
def files(server, make_picture):  # noqa: F811
    """Return a server's files: the same image and caption as every kind of source."""
    image = bytes_of(lambda buffer: make_picture(1).save(buffer, "PNG"))
    table = pa.table({"file_name": ["a.png"], "caption": ["a red one"]})
    held = pa.table({"image": [{"bytes": image, "path": "a.png"}], "caption": ["a red one"]})
    server.files |= {
        "coco.json": json.dumps(COCO).encode(),
        "t.csv": CSV,
        "t.parquet": bytes_of(lambda buffer: pq.write_table(table, buffer)),
        "0.tar": tar_of(a_png=image, a_txt=b"a red one"),
        "hf/state.json": json.dumps({"_data_files": [{"filename": "d.arrow"}]}).encode(),
        "images/a.png": image,
    }
    with io.BytesIO() as buffer:
        with pa.ipc.new_stream(buffer, held.schema) as stream:
            stream.write_table(held)
        server.files["hf/d.arrow"] = buffer.getvalue()
    return f"{server.uri}/files"


def sources(files, http=ALLOWED):
    images = f"{files}/images"
    return [
        CocoSource(annotations_uri=f"{files}/coco.json", images_uri=images, http=http),
        TableSource(table_uri=f"{files}/t.csv?token=1", images_uri=images, http=http),
        ParquetSource(table_uri=f"{files}/t.parquet", images_uri=images, http=http),
        WebDatasetSource(shards_uri=f"{files}/{{0..0}}.tar", http=http),
        HFSource(dataset_uri=f"{files}/hf", http=http),
    ]


def test_every_source_is_read(files, server, store, configure):  # noqa: F811
    manifest = curate(configure(*sources(files), max_hash_distance=-1, drop_exact_duplicates=False), store, "k")
    assert (manifest.num_samples, manifest.rejected) == (5, ())
    before = [source_fingerprint(source) for source in sources(files)]
    assert before == [source_fingerprint(source) for source in sources(files)]
    server.files |= {"coco.json": json.dumps(COCO | {"info": 1}).encode(), "t.csv": CSV + b"b.png,x\n"}
    assert [new != old for new, old in zip(map(source_fingerprint, sources(files)), before, strict=True)] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("number", range(5))
def test_private_addresses_are_refused_unless_allowed(files, server, number):  # noqa: F811
    source = sources(files, HttpConfig())[number]
    for ask in (check_source, source_fingerprint, lambda one: list(list_samples(one, "s", None))):
        with pytest.raises(ConfigError, match=r"http\.allow_private_addresses"):
            ask(source)
    assert server.asked.total() == 0, "nothing was asked"


def test_a_redirect_to_a_private_address_is_refused(files, server, names, monkeypatch):  # noqa: F811
    """The first host counts as public here; the one it leads to is this machine."""
    from softalign.data.curation import addresses

    names["public.example"] = ["127.0.0.2"]
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.2")
    monkeypatch.setattr(addresses.httpcore, "SyncBackend", _to_loopback(addresses.httpcore.SyncBackend))
    port = server.server_address[1]
    table = TableSource(table_uri=f"http://public.example:{port}/to/{files}/t.csv", images_uri="x")
    with pytest.raises(ConfigError, match="after redirects"):
        check_source(table)
    assert list(server.asked) == [f"/to/{files}/t.csv"], "where it leads to was not asked"


def _to_loopback(backend):
    class Backend(backend):
        def connect_tcp(self, host, *rest):
            return super().connect_tcp("127.0.0.1", *rest)

    return Backend


def table_at(uri, **http):
    return TableSource(table_uri=uri, images_uri="x", http=ALLOWED.model_copy(update=http))


def test_a_table_above_the_cap_is_refused(server):  # noqa: F811
    for url in (f"{server.uri}/large/1001", f"{server.uri}/endless"):
        source = CocoSource(annotations_uri=url, images_uri="x", http=table_at("", max_table_bytes=1000).http)
        with pytest.raises(DataError, match=r"at most 1,000 bytes[^$]*http\.max_table_bytes"):
            check_source(source)
    assert server.asked.total() == 2, "it is not tried again"


def test_what_fails_is_tried_again_and_then_said(files, server, waits):  # noqa: F811
    coco = CocoSource(annotations_uri=f"{server.uri}/twice/503", images_uri="x", http=ALLOWED)
    with pytest.raises(DataError, match="JSON"):
        check_source(coco)
    assert len(waits) == 2
    with pytest.raises(MissingInputError):
        check_source(table_at(f"{files}/none.csv"))
    with pytest.raises(ConfigError, match="refused access"):
        check_source(table_at(f"{server.uri}/status/403/t.csv"))
    with pytest.raises(StorageUnavailableError, match="HTTP 500"):
        check_source(table_at(f"{server.uri}/status/500/t.csv"))


def test_a_large_file_that_keeps_coming_is_waited_for_and_one_that_drips_is_not(server):  # noqa: F811
    slow = {"timeout_s": 0.4, "max_tries": 1}
    with pytest.raises(DataError, match="tar"):
        check_source(WebDatasetSource(shards_uri=f"{server.uri}/steady/0.tar", http=table_at("", **slow).http))
    with pytest.raises(StorageUnavailableError, match="took too long"):
        check_source(table_at(f"{server.uri}/drip/body/t.csv", **slow))


@pytest.mark.parametrize("uri", ["http://h.example/parts/", "http://h.example/*.csv", "http://h.example"])
def test_behind_http_each_file_is_named(uri):
    with pytest.raises(ConfigError, match="no folders"):
        check_source(table_at(uri))


def test_ways_around_the_rules_are_refused(server):  # noqa: F811
    with pytest.raises(ConfigError, match="leads to another one"):
        check_source(table_at(f"simplecache::{server.uri}/ok/t.csv"))
    with pytest.raises(ConfigError, match="leads to another one"):
        check_source(CocoSource(annotations_uri=f"simplecache::{server.uri}/ok/c.json", images_uri="x"))
    with pytest.raises(ConfigError, match="cannot be listed"):
        list(list_samples(FolderSource(images_uri=f"{server.uri}/ok"), "s", None))
    assert server.asked.total() == 0


def test_requests_are_as_before_there_was_more_to_say_of_http(tmp_path, store):
    (tmp_path / "c.json").write_text(json.dumps(COCO))
    (tmp_path / "t.csv").write_bytes(CSV)

    def asked(**http):
        coco = CocoSource(annotations_uri=str(tmp_path / "c.json"), images_uri=str(tmp_path), **http)
        table = TableSource(table_uri=str(tmp_path / "t.csv"), images_uri=str(tmp_path), **http)
        curation = {"name": "x", "sources": [coco.model_dump(), table.model_dump()]}
        recipe = Recipe.model_validate({"name": "x", "curation": curation, "register": {"name": "x"}})
        return [one.get("http") for one in curate_request(StageInputs(recipe, store)).config["curation"]["sources"]]

    default = HttpConfig().model_dump()
    del default["max_table_bytes"]
    assert asked() == [None, default]
    assert [one["max_table_bytes"] for one in asked(http=HttpConfig(max_table_bytes=1))] == [1, 1]

"""Downloads, from a web server of the test's own."""

import hashlib
import io
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recsys_meta.core.errors import DataError
from recsys_meta.data import SOURCES, prepare_named
from recsys_meta.data.sources import registry
from recsys_meta.data.sources.download import ZipArchive, download_archive

RATINGS = "userId,movieId,rating,timestamp\n1,1,0.5,964982703\n"
MOVIES = "movieId,title,genres\n1,Heat (1995),Action\n"
NAME = "movielens-latest-small"


def packed(**more) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, text in {"ratings.csv": RATINGS, "movies.csv": MOVIES, "README.txt": "x", **more}.items():
            z.writestr(f"ml-latest-small/{name}", text)
        z.writestr("../../evil.txt", "out of the box")
    return buffer.getvalue()


@pytest.fixture
def server():
    """A server that answers with `server.content`, and counts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
        s.asked, s.status, s.content = 0, 200, packed()
        s.url = f"http://127.0.0.1:{s.server_port}/ml-latest-small.zip"
        thread = threading.Thread(target=s.serve_forever, daemon=True)
        thread.start()
        yield s
        s.shutdown()
        thread.join()


@pytest.fixture
def source(server, monkeypatch):
    """The built-in data set, fetched from the test's server."""

    def change(**archive):
        known = SOURCES[NAME]
        new = replace(known, archive=replace(known.archive, **({"url": server.url} | archive)))
        monkeypatch.setitem(registry.SOURCES, NAME, new)

    change()
    return change


def test_fetched_unpacked_kept_and_not_fetched_again(server, source, tmp_path):
    seen = []
    data = prepare_named(NAME, tmp_path / "data" / "x", progress=lambda stage, done: seen.append((stage, done)))
    assert len(data.events) == 1
    assert ("downloading", 1.0) in seen
    assert data.about["warnings"], "other counts than the published ones are told"
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["downloads", "x"]
    assert sorted(p.name for p in (tmp_path / "data" / "downloads").iterdir()) == ["ml-latest-small"]
    prepare_named(NAME, tmp_path / "data" / "x")
    assert server.asked == 1
    assert not (tmp_path.parent / "evil.txt").exists()


def test_the_checksum_is_checked(server, source, tmp_path):
    source(md5=hashlib.md5(server.content).hexdigest())
    prepare_named(NAME, tmp_path / "a" / "x")
    source(md5="0" * 32)
    with pytest.raises(DataError, match="is not what was published"):
        prepare_named(NAME, tmp_path / "b" / "x")
    assert not list((tmp_path / "b").rglob("*.csv"))


@pytest.mark.parametrize("content", [b"", b"<html>sign in to the network</html>", packed()[:200]])
def test_something_else_than_the_archive(server, source, tmp_path, content):
    server.content = content
    with pytest.raises(DataError, match="is not what was published") as caught:
        prepare_named(NAME, tmp_path / "x")
    assert "--source" in str(caught.value)
    assert not (tmp_path / "downloads" / "ml-latest-small").exists()


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_refuses(server, source, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match="cannot be fetched"):
        prepare_named(NAME, tmp_path / "x")


def test_no_network_says_where_to_put_the_files(source, tmp_path):
    source(url="http://127.0.0.1:9/ml-latest-small.zip")
    with pytest.raises(DataError) as caught:
        prepare_named(NAME, tmp_path / "x", data_root=tmp_path)
    for part in ("cannot be fetched", "Download it yourself", "--source", "RECSYS_META_DATA", "ml-latest-small"):
        assert part in str(caught.value)


def test_nothing_is_fetched_when_it_must_not_be(server, source, tmp_path):
    with pytest.raises(DataError, match="was not found"):
        prepare_named(NAME, tmp_path / "x", download=False)
    assert server.asked == 0


def test_a_place_that_refuses(server, source, tmp_path):
    (tmp_path / "downloads").write_text("a file")
    with pytest.raises(DataError, match="cannot be kept"):
        prepare_named(NAME, tmp_path / "x")


def test_an_archive_that_lacks_a_member(server, tmp_path):
    archive = ZipArchive(server.url, ("ml-latest-small/nothing.csv",))
    with pytest.raises(DataError, match="is not what was published"):
        download_archive(archive, tmp_path / "ml", lambda done: None, "put it there")
    assert not (tmp_path / "ml").exists()


def test_addresses_and_checksums_are_those_of_grouplens():
    known = {n: s.archive for n, s in SOURCES.items() if s.archive}
    assert {n: a.md5 for n, a in known.items()} == {
        "movielens-100k": "0e33842e24a9c977be4e0107933c0723",
        **dict.fromkeys(
            ("movielens-1m", "movielens-1m-ads", "movielens-1m-ads-forward"), "c4d9eecfca2ab87c1945afe126590906"
        ),
        "movielens-latest-small": None,
    }
    assert all(a.url.startswith("https://files.grouplens.org/datasets/movielens/") for a in known.values())

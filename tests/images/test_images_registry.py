"""Registries: real ones, and one that lies, stalls and cuts."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capabilities import need
from image_servers import PASSWORD, USER, Docker, docker_registry

from host import records
from host.errors import BadData, DeadlinePassed, Failure, NotFound, Usage
from images import credentials, fetch, importing, pack, platforms, prune, pull, space
from images.blobs import encode, sha256
from images.pull import Moved
from images.registry import Registry
from images.store import INDEX, MANIFEST, Image, Store
from images.transport import Access

SUB = Path(__file__).parents[2]


def grown(store: Store, base: str, name: str, content: bytes) -> Image:
    """An image of one more layer with one file on a base."""
    with store.using(), store.layers.making() as half:
        (half / "root" / "file").write_bytes(content)
        packed = pack.pack_tree(store.blobs, half / "root")
        image = store.resolve(base)
        document = store.document(image.digest)
        document["rootfs"]["diff_ids"].append(packed.diff_id)
        layers = [*store.manifest(image.digest)["layers"], packed.descriptor]
        return store.add(document, layers, name)


@pytest.fixture
def source(tiny: Store, tmp_path: Path) -> Store:
    """A store with v1 and v2 of one image, which share tiny."""
    from images import archives

    store = Store(tmp_path / "source")
    with (tmp_path / "tiny.tar").open("wb") as sink:
        archives.save(tiny, ["tiny"], sink, "oci")
    archives.load(store, tmp_path / "tiny.tar")
    grown(store, "tiny", "app:v1", b"one")
    grown(store, "tiny", "app:v2", os.urandom(300_000))
    return store


class TestReal:
    def test_push_and_pull_move_only_what_is_missing(
        self, source: Store, store: Store, registry: str
    ) -> None:
        first = pull.push(source, "app:v1", f"{registry}/class/app:v1")
        assert first.here_bytes == 0
        changed = source.stack(source.resolve("app:v2").digest)[-1].size
        second = pull.push(source, "app:v2", f"{registry}/class/app:v2")
        assert changed < second.moved_bytes <= changed * 1.02
        image = pull.pull(store, f"{registry}/class/app:v1")
        assert image.digest == source.resolve("app:v1").digest
        moved = Moved()
        pull.pull(store, f"{registry}/class/app:v2", moved=moved)
        assert changed < moved.moved_bytes <= changed * 1.02
        assert moved.here_bytes > 1_000_000
        assert list(space.verify(store)) == []

    def test_by_digest_and_the_name_it_gets(self, source: Store, store: Store, registry: str) -> None:
        pull.push(source, "app:v1", f"{registry}/app:v1")
        digest = source.resolve("app:v1").digest
        assert pull.pull(store, f"{registry}/app@{digest}").digest == digest
        with pytest.raises(Failure):
            pull.pull(store, f"{registry}/app@{'sha256:' + '0' * 64}")

    def test_what_is_not_there_is_not_found(self, store: Store, registry: str) -> None:
        with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
            pull.pull(store, f"{registry}/none:v1")
        with pytest.raises(Usage, match="cannot reach a registry"):
            pull.pull(store, "none:v1")

    def test_search_lists_and_filters(self, source: Store, registry: str, home: Path) -> None:
        for name in ("class/app", "class/db", "other"):
            pull.push(source, "app:v1", f"{registry}/{name}:v1")
        argv = [sys.executable, "-m", "cli.main", "image", "search", registry]
        told = subprocess.run([*argv, "class/*", "--json"], capture_output=True, check=True, cwd=SUB)
        assert [one["name"] for one in json.loads(told.stdout)["images"]] == [
            f"{registry}/class/app",
            f"{registry}/class/db",
        ]
        assert Registry(registry).tags("other") == ["v1"]

    def test_a_locked_registry_wants_a_login(
        self, source: Store, store: Store, locked_registry: str, home: Path
    ) -> None:
        with pytest.raises(Failure, match="401") as caught:
            pull.push(source, "app:v1", f"{locked_registry}/app:v1")
        assert "vmm image login" in caught.value.hint
        argv = [
            sys.executable,
            "-m",
            "cli.main",
            "image",
            "login",
            locked_registry,
            "-u",
            USER,
            "--password-stdin",
        ]
        wrong = subprocess.run(argv, input=b"wrong\n", capture_output=True, check=False, cwd=SUB)
        assert wrong.returncode == 1
        assert credentials.of(locked_registry) is None
        subprocess.run(argv, input=PASSWORD.encode() + b"\n", check=True, cwd=SUB)
        assert credentials.of(locked_registry) == (USER, PASSWORD)
        assert (home / "auth.json").stat().st_mode & 0o077 == 0
        pull.push(source, "app:v1", f"{locked_registry}/app:v1")
        assert pull.pull(store, f"{locked_registry}/app:v1").layers == source.resolve("app:v1").layers

    def test_a_private_authority_must_be_known(
        self, source: Store, store: Store, tls_registry: tuple[str, Path]
    ) -> None:
        host, authority = tls_registry
        with pytest.raises(Failure, match="trust"):
            pull.push(source, "app:v1", f"{host}/app:v1")
        access = Access(ca_file=authority)
        pull.push(source, "app:v1", f"{host}/app:v1", access=access)
        assert pull.pull(store, f"{host}/app:v1", access=access).digest == source.resolve("app:v1").digest

    def test_an_index_gives_this_architecture(self, source: Store, store: Store, registry: str) -> None:
        there, ours = Registry(registry), source.resolve("app:v1")
        pull.push(source, "app:v1", f"{registry}/app:v1")
        data = source.blobs.path(ours.digest).read_bytes()
        there.put_manifest("app", ours.digest, data, MANIFEST)
        entry = {"mediaType": MANIFEST, "digest": ours.digest, "size": len(data)}

        def index(*entries: dict[str, object]) -> bytes:
            return encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)})

        native = {**entry, "platform": {"os": "linux", "architecture": ours.config.architecture}}
        there.put_manifest("app", "multi", index(native), INDEX)
        assert pull.pull(store, f"{registry}/app:multi").digest == ours.digest
        with pytest.raises(NotFound, match=f"linux/{ours.config.architecture}"):
            pull.pull(store, f"{registry}/app:multi", architecture="s390x")

    def test_skopeo_reads_what_we_pushed_and_we_what_it_pushed(
        self, source: Store, store: Store, registry: str
    ) -> None:
        need("skopeo")
        pull.push(source, "app:v1", f"{registry}/app:v1")
        argv = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
        for extra, tag in ((["--format", "v2s2"], "docker"), (["--format", "oci"], "oci")):
            there = [f"docker://{registry}/app:v1", f"docker://{registry}/app:{tag}"]
            subprocess.run([*argv, *extra, *there], check=True)
            assert pull.pull(store, f"{registry}/app:{tag}").layers == source.resolve("app:v1").layers

    def test_docker_pulls_and_runs_ours_and_we_what_it_pushed(
        self, source: Store, store: Store, docker: Docker, tmp_path: Path, home: Path
    ) -> None:
        (tmp_path / "r").mkdir()
        with docker_registry(tmp_path / "r", enter=docker.enter_argv()) as host:
            vmm = [sys.executable, "-m", "cli.main", "image"]
            env = {**os.environ, "VMM_HOME": str(source.home)}
            done = docker.enter(*vmm, "push", "app:v1", f"{host}/app:v1", env=env, cwd=SUB)
            assert done.returncode == 0, done.stderr
            assert docker("run", "--rm", "--network=none", f"{host}/app:v1", "cat", "/file") == "one"
            docker("tag", f"{host}/app:v1", f"{host}/back:v1")
            docker("push", "-q", f"{host}/back:v1")
            env["VMM_HOME"] = str(store.home)
            done = docker.enter(*vmm, "pull", f"{host}/back:v1", env=env, cwd=SUB)
            assert done.returncode == 0, done.stderr
        image = store.resolve(f"{host}/back:v1")
        assert (store.lower_dirs(image)[0] / "file").read_bytes() == b"one"


class Liar(http.server.ThreadingHTTPServer):
    """A server whose answers are given by a function of (handler, number of the request for that path)."""

    daemon_threads = True

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler, int], None]) -> None:
        self.seen: dict[str, int] = {}
        self.ranges: list[str] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.seen[self.path] = server.seen.get(self.path, 0) + 1
                server.ranges.append(self.headers.get("Range", ""))
                with contextlib.suppress(ConnectionError):
                    answer(self, server.seen[self.path])

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def liar() -> Iterator[Callable[..., Liar]]:
    servers: list[Liar] = []

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler, int], None]) -> Liar:
        servers.append(Liar(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(
    handler: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    cut: int | None = None,
    **headers: str,
) -> None:
    """Answer; with `cut`, fewer bytes than announced, then the connection is closed."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body if cut is None else body[:cut])
    handler.wfile.flush()
    if cut is not None:
        handler.close_connection = True
        handler.connection.shutdown(2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries: what is shown is that there are several."""
    from images import transport

    monkeypatch.setattr(transport, "_wait_s", lambda *_: 0.0)
    monkeypatch.setattr(pull, "PAUSE_S", 0.0)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)


HTTP = Access(plain_http=True)


@pytest.mark.usefixtures("quick")
class TestLiars:
    @pytest.fixture
    def serving(self, source: Store) -> Callable[[str], bytes]:
        """The honest bytes for a path, of app:v2."""
        image = source.resolve("app:v2")

        def body(path: str) -> bytes:
            if "/manifests/" in path:
                return source.blobs.path(image.digest).read_bytes()
            return source.blobs.path(path.rpartition("/")[2]).read_bytes()

        return body

    def sound_and_empty(self, store: Store) -> None:
        assert list(space.verify(store)) == []
        assert store.images() == []
        assert os.listdir(store.staging) == []

    def test_a_cut_transfer_goes_on_where_it_was(
        self, store: Store, serving: Callable[[str], bytes], liar: Callable[..., Liar]
    ) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            body, start = serving(handler.path), handler.headers.get("Range", "")
            offset = int(start.removeprefix("bytes=").rstrip("-")) if start else 0
            big = len(body) > 100_000 and number < 3
            send(handler, 206 if offset else 200, body[offset:], cut=100_000 if big else None)

        server, moved = liar(answer), Moved()
        pull.pull(store, f"{server.host}/app:v2", access=HTTP, moved=moved)
        assert any(one == "bytes=100000-" for one in server.ranges)
        manifest = store.manifest(store.images()[0].digest)
        whole = sum(told["size"] for told in (manifest["config"], *manifest["layers"]))
        assert moved.moved_bytes <= whole * 1.02

    def test_a_pull_that_gave_up_is_gone_on_with_by_the_next(
        self, store: Store, serving: Callable[[str], bytes], liar: Callable[..., Liar]
    ) -> None:
        broken = True

        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            body, start = serving(handler.path), handler.headers.get("Range", "")
            offset = int(start.removeprefix("bytes=").rstrip("-")) if start else 0
            if broken and len(body) > 100_000 and offset > 150_000:
                return send(handler, 503, b"")
            cut = 200_000 if broken and len(body) > 250_000 else None
            send(handler, 206 if offset else 200, body[offset:], cut=cut)

        server = liar(answer)
        with pytest.raises(DeadlinePassed, match="tries failed"):
            pull.pull(store, f"{server.host}/app:v2", access=HTTP)
        self.sound_and_empty(store)
        broken, moved = False, Moved()
        pull.pull(store, f"{server.host}/app:v2", access=HTTP, moved=moved)
        assert moved.moved_bytes < 1_100_000

    @pytest.mark.parametrize(
        ("lie", "words"),
        [
            (lambda body: body[:-1] + b"!", "refused the blob"),
            (lambda body: body + b"more", "more than"),
            (lambda body: body[:-1], "tries failed"),
            (lambda body: b"<html>please log in</html>", "tries failed|refused"),
        ],
    )
    def test_a_blob_that_is_another_is_refused(
        self,
        store: Store,
        serving: Callable[[str], bytes],
        liar: Callable[..., Liar],
        lie: Callable[[bytes], bytes],
        words: str,
    ) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            body = serving(handler.path)
            send(handler, 200, lie(body) if "/blobs/" in handler.path else body)

        with pytest.raises(Failure, match=words):
            pull.pull(store, f"{liar(answer).host}/app:v2", access=HTTP)
        self.sound_and_empty(store)

    @pytest.mark.parametrize(
        ("body", "headers", "words"),
        [
            (b"<html>", {}, "not JSON"),
            (b"[]", {}, "not a JSON object"),
            (b"{}", {"Docker_Content_Digest": "sha256:" + "0" * 64}, "its digest is"),
            (encode({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": [], "manifests": []}),
             {}, "at once"),
            (encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
             {"Content_Type": MANIFEST}, "no image|says"),
            (encode({"mediaType": MANIFEST, "config": {"digest": "x", "size": 1}, "layers": []}),
             {}, "no sha256 digest"),
            (b'{"a": "' + b"x" * (5 << 20) + b'"}', {}, "larger than 4 MiB"),
        ],
    )  # fmt: skip
    def test_manifests_that_lie_are_refused(
        self, store: Store, liar: Callable[..., Liar], body: bytes, headers: dict[str, str], words: str
    ) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            send(handler, 200, body, **headers)

        with pytest.raises((BadData, NotFound), match=words):
            pull.pull(store, f"{liar(answer).host}/app:v2", access=HTTP)
        self.sound_and_empty(store)

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_what_passes_is_tried_again(
        self, store: Store, serving: Callable[[str], bytes], liar: Callable[..., Liar], status: int
    ) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            if number < 3:
                return send(handler, status, b"", Retry_After="0")
            send(handler, 200, serving(handler.path))

        assert pull.pull(store, f"{liar(answer).host}/app:v2", access=HTTP).config.cmd == ("/bin/sh",)

    def test_what_does_not_pass_ends_in_a_clear_error(self, store: Store, liar: Callable[..., Liar]) -> None:
        server = liar(lambda handler, number: send(handler, 500, b""))
        with pytest.raises(DeadlinePassed, match="5 tries failed; it answered 500"):
            pull.pull(store, f"{server.host}/app:v2", access=HTTP)
        assert list(server.seen.values()) == [5]

    def test_a_refusal_is_not_tried_again(self, store: Store, liar: Callable[..., Liar]) -> None:
        server = liar(
            lambda handler, number: send(handler, 403, b'{"errors":[{"code":"DENIED","message":"no"}]}')
        )
        with pytest.raises(Failure, match="403: DENIED: no"):
            pull.pull(store, f"{server.host}/app:v2", access=HTTP)
        assert list(server.seen.values()) == [1]

    def test_a_stall_ends(
        self, store: Store, liar: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from images import transport

        monkeypatch.setattr(transport, "STALL_S", 0.2)
        over = threading.Event()
        server = liar(lambda handler, number: over.wait(10) and None)
        try:
            with pytest.raises(DeadlinePassed, match="timed out"):
                pull.pull(store, f"{server.host}/app:v2", access=HTTP)
        finally:
            over.set()

    def test_passwords_go_to_no_realm_without_tls(self, store: Store, liar: Callable[..., Liar]) -> None:
        challenge = 'Bearer realm="http://collector.example/token",service="x"'
        server = liar(lambda handler, number: send(handler, 401, b"", WWW_Authenticate=challenge))
        with pytest.raises(BadData, match="not TLS"):
            pull.pull(store, f"{server.host}/app:v2", access=HTTP)

    def test_a_token_service_is_asked_with_the_scope(
        self, store: Store, serving: Callable[[str], bytes], liar: Callable[..., Liar]
    ) -> None:
        asked: list[str] = []

        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            if handler.path.startswith("/token"):
                asked.append(handler.path)
                return send(handler, 200, b'{"token": "t0k"}')
            if handler.headers.get("Authorization") != "Bearer t0k":
                realm = f'Bearer realm="http://{server.host}/token",service="s",scope="repository:app:pull"'
                return send(handler, 401, b"", WWW_Authenticate=realm)
            send(handler, 200, serving(handler.path))

        server = liar(answer)
        pull.pull(store, f"{server.host}/app:v2", access=HTTP)
        assert "scope=repository%3Aapp%3Apull" in asked[0]


@pytest.mark.usefixtures("quick")
class TestDownloads:
    """`vmm image import URL`, fail closed."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> bytes:
        need("qemu")
        path = tmp_path / "cloud.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
        subprocess.run(["qemu-io", "-c", "write -q 0 1M", path], check=True, capture_output=True)
        return path.read_bytes()

    def import_(self, store: Store, url: str, checksum: str = "") -> Image:
        return importing.run(store, importing.Wish(url, "cloud:1", checksum=checksum), lambda _line: None)

    def test_a_disk_comes_in_and_is_checked(
        self, store: Store, disk: bytes, liar: Callable[..., Liar]
    ) -> None:
        sums = f"{sha256(disk)[7:]}  cloud.img\n".encode()
        server = liar(lambda h, n: send(h, 200, sums if h.path == "/SHA256SUMS" else disk))
        assert self.import_(store, f"http://{server.host}/cloud.img", sha256(disk)).disk
        assert self.import_(store, f"http://{server.host}/cloud.img", f"http://{server.host}/SHA256SUMS").disk
        assert os.listdir(store.root / "downloads") == []

    def test_a_cut_download_goes_on(self, store: Store, disk: bytes, liar: Callable[..., Liar]) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            start = handler.headers.get("Range", "")
            offset = int(start.removeprefix("bytes=").rstrip("-")) if start else 0
            told = {"Content_Range": f"bytes {offset}-{len(disk) - 1}/{len(disk)}"} if offset else {}
            send(handler, 206 if offset else 200, disk[offset:], 500_000 if number == 1 else None, **told)

        server = liar(answer)
        assert self.import_(store, f"http://{server.host}/x", sha256(disk)).disk
        assert server.ranges == ["", "bytes=500000-"]

    def test_a_cut_body_of_untold_length_is_not_taken_for_whole(
        self, store: Store, disk: bytes, liar: Callable[..., Liar]
    ) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(disk) // 2, disk[: len(disk) // 2]))
            handler.close_connection = True

        server = liar(answer)
        with pytest.raises(Failure, match="ended early"):
            self.import_(store, f"http://{server.host}/x")
        assert store.images() == []

    @pytest.mark.parametrize("odd", ["another file by now", "another range", "too much is here"])
    def test_a_download_never_mixes_two_files(
        self, store: Store, disk: bytes, liar: Callable[..., Liar], odd: str
    ) -> None:
        """The first try is cut in the middle of a file of other content; then the server has `disk`."""

        def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            if number == 1:
                send(handler, 200, bytes(1 << 20), 500_000, ETag='"old"')
            elif number == 2 and odd == "another range":
                send(handler, 206, disk[7:], Content_Range=f"bytes 7-{len(disk) - 1}/{len(disk)}")
            elif number == 2 and odd == "too much is here":
                send(handler, 416, b"", Content_Range="bytes */7")
            else:
                assert handler.headers.get("If-Range", '"old"') == '"old"'
                send(handler, 200, disk, ETag='"new"')

        server = liar(answer)
        assert self.import_(store, f"http://{server.host}/x").disk
        assert "bytes=500000-" in server.ranges
        assert os.listdir(store.root / "downloads") == []

    def test_what_a_cut_download_left_goes_with_prune(
        self, store: Store, disk: bytes, liar: Callable[..., Liar]
    ) -> None:
        server = liar(lambda handler, number: send(handler, 200, disk, cut=300_000, ETag='"x"'))
        with pytest.raises(DeadlinePassed):
            self.import_(store, f"http://{server.host}/x", sha256(disk))
        kept = next(path for path in (store.root / "downloads").iterdir() if not path.suffix)
        with records.lock(kept.with_suffix(".lock")):
            assert prune.prune(store).half_made == 0
        assert kept.exists()
        assert prune.prune(store).freed_bytes >= 300_000
        assert os.listdir(store.root / "downloads") == []

    @pytest.mark.parametrize("what", ["html", "wrong checksum", "not in the list", "404", "always cut"])
    def test_anything_else_is_refused_and_nothing_kept(
        self, store: Store, disk: bytes, liar: Callable[..., Liar], what: str
    ) -> None:
        answers = {
            "html": lambda h, n: send(h, 200, b"<html>a page</html>" * 100),
            "wrong checksum": lambda h, n: send(h, 200, disk[:-1] + b"!"),
            "not in the list": lambda h, n: send(
                h, 200, b"0" * 64 + b"  other.img\n" if "SUMS" in h.path else disk
            ),
            "404": lambda h, n: send(h, 404, b"gone"),
            "always cut": lambda h, n: send(h, 200, disk, cut=1000),
        }
        server = liar(answers[what])
        sums = f"http://{server.host}/SUMS"
        checksum = {"not in the list": sums, "html": ""}.get(what, sha256(disk))
        with pytest.raises(Failure):
            self.import_(store, f"http://{server.host}/cloud.img", checksum)
        assert store.images() == []
        assert store.blobs.digests() == set()


class TestPlatforms:
    INDEX = staticmethod(
        lambda *pairs: {
            "manifests": [
                {
                    "digest": "sha256:" + str(n) * 64,
                    "size": 1,
                    "platform": {"os": "linux", "architecture": arch, "variant": variant},
                }
                for n, (arch, variant) in enumerate(pairs)
            ]
        }
    )

    def test_the_best_variant_of_the_architecture_is_chosen(self) -> None:
        index = self.INDEX(("s390x", ""), ("arm", "v6"), ("arm", "v7"), ("amd64", ""))
        assert platforms.choose(index, "x", "arm")["digest"] == "sha256:" + "2" * 64
        assert platforms.choose(index, "x", "amd64")["digest"] == "sha256:" + "3" * 64

    def test_the_others_are_named_where_ours_is_missing(self) -> None:
        with pytest.raises(NotFound, match="linux/s390x"):
            platforms.choose(self.INDEX(("s390x", "")), "x", "amd64")

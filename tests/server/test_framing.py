"""Where a request ends is where its head says, whatever the head offers: nothing in a body runs as a request."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.server.framing import MOST_IN_LINE
from service.server.transport import WatchingProtocol
from service.settings import Settings
from tests.api.test_encode import PAIR
from tests.listening import listen
from tests.wire import Echo, converse

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x;a=b\r\n%s\r\n0\r\nx-last: 1\r\n\r\n" % (
    HIDDEN[:5],
    len(HIDDEN) - 5,
    HIDDEN[5:],
)
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: eA==\r\n",
    "several": b"upgrade: TLS/1.0\r\nUPGRADE: anything\r\nConnection: keep-alive, uPGRADE\r\nX-Empty:\r\n",
}
BODIES = {"length": (LENGTH, HIDDEN), "chunks": (CHUNKS, HIDDEN), "none": (b"\r\n", b"")}


def offering(offer: bytes, framed: bytes, version: bytes = b"1.1") -> bytes:
    """Return a request that offers another protocol."""
    return b"POST /asked?a=b HTTP/" + version + b"\r\nHost: x\r\n" + offer + framed


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_is_ignored(offer: str, body: str) -> None:
    """Wherever reads cut it, the request is answered with its body, and what is behind it on the connection as well."""
    framed, expected = BODIES[body]
    sent = offering(OFFERS[offer], framed) + NEXT
    cuts = [[sent[:at], sent[at:]] for at in range(1, len(sent))]
    for parts in ([sent], [bytes([byte]) for byte in sent], *cuts):
        app = Echo()
        wire = converse(app, *parts)
        assert app.asked == [("POST", "/asked", expected), ("GET", "/next", b"")]
        assert b"".join(wire.writes).count(b"HTTP/1.1 200 OK") == 2
        assert wire.is_kept
        assert "upgrade" not in app.headers[0]
        assert app.headers[0]["host"] == "x"


def test_many_offers_in_one_read_are_all_ignored() -> None:
    """Requests may stand behind each other however often they offer something."""
    app = Echo()
    converse(app, b"".join(offering(OFFERS["h2c"], BODIES["none"][0]) + offering(OFFERS["h2c"], LENGTH) for _ in "abc"))
    assert [body for _, _, body in app.asked] == [b"", HIDDEN] * 3


def test_requests_in_line_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those up to the bound are answered, nothing behind them is, and the connection ends."""
    monkeypatch.setattr("tests.wire.TURNS", 20 * MOST_IN_LINE)
    app = Echo()
    answers = converse(app, (MOST_IN_LINE + 1) * offering(b"", BODIES["none"][0]) + 10_000 * b"GET / HTTP/1.1\r\n\r\n")
    assert len(app.asked) == MOST_IN_LINE + 1  # the first of them waits for nobody
    assert b"".join(answers.writes).count(b"HTTP/1.1 200") == MOST_IN_LINE + 1
    assert not answers.is_kept


@pytest.mark.parametrize(
    "sent",
    [
        offering(OFFERS["h2c"], LENGTH, b"1.0"),
        offering(b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n", LENGTH),
        offering(b"Connection: close\r\n", LENGTH),
    ],
    ids=["1.0", "close and upgrade", "close"],
)
def test_nothing_runs_behind_the_last_request_of_a_connection(sent: bytes) -> None:
    """It is answered, and the connection closed."""
    for parts in ([sent + NEXT], [sent, NEXT], [bytes([byte]) for byte in sent + NEXT]):
        app = Echo()
        assert not converse(app, *parts).is_kept
        assert app.asked == [("POST", "/asked", HIDDEN)]


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT /asked HTTP/1.1\r\nHost: x\r\n" + LENGTH,
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        b"CONNECT a://b/c HTTP/1.1\r\nHost: x\r\n" + OFFERS["h2c"] + LENGTH,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
        offering(b"", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + HIDDEN),
        offering(OFFERS["h2c"], b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + HIDDEN),
        offering(OFFERS["h2c"], b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + HIDDEN),
        offering(OFFERS["h2c"], b"Transfer-Encoding: gzip\r\n\r\n" + HIDDEN),
    ],
    ids=["a tunnel", "a tunnel to a host", "a tunnel and an offer", "HTTP/2", "a chunk", "an offer", "two", "unknown"],
)
def test_what_has_no_known_end_is_400_and_ends_the_connection(sent: bytes) -> None:
    """Nothing behind it runs, in one read or in several."""
    for parts in ([sent], [bytes([byte]) for byte in sent]):
        app = Echo()
        wire = converse(app, *parts)
        assert b"".join(wire.writes).startswith(b"HTTP/1.1 400 ")
        assert not wire.is_kept
        assert app.asked == []


def test_the_rest_of_a_refused_body_is_no_request() -> None:
    """Who is answered early may send it, and ask again behind it."""
    sent = b"POST /early HTTP/1.1\r\nHost: x\r\n" + LENGTH
    for parts in ([sent, NEXT], [sent[:-30], sent[-30:-10], sent[-10:] + NEXT]):
        app = Echo()
        converse(app, *parts)
        assert app.asked == [("POST", "/early", b""), ("GET", "/next", b"")]


def test_trailers_are_no_headers() -> None:
    """What comes behind a body neither adds to what was said before it, nor offers anything."""
    trailers = b"0\r\nHost: y\r\nAuthorization: Bearer other\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    app = Echo()
    converse(app, offering(b"", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n") + trailers + NEXT)
    assert app.headers == [{"host": "x", "transfer-encoding": "chunked"}, {"host": "x"}]
    assert [body for _, _, body in app.asked] == [b"a", b""]


@pytest.mark.parametrize("part", [b"x-more: " + b"y" * 200 + b"\r\n", b"y" * 200], ids=["many", "one"])
@pytest.mark.parametrize("path", [b"asked", b"early"])
def test_trailers_that_do_not_end_are_cut_off(part: bytes, path: bytes) -> None:
    """As heads are, whether or not the request was answered before."""
    head = b"POST /" + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: "
    assert not converse(Echo(), head, *[part] * (WatchingProtocol.head_bytes // len(part) + 1)).is_kept


def test_a_large_body_in_small_chunks_is_taken() -> None:
    """What frames it may be more than a head may have."""
    app = Echo()
    chunks = [b"1;name=value\r\na\r\n" * 100] * 100
    assert 100 * len(chunks[0]) > WatchingProtocol.head_bytes
    converse(app, offering(b"", b"Transfer-Encoding: chunked\r\n\r\n"), *chunks, b"0\r\n\r\n")
    assert [len(body) for _, _, body in app.asked] == [100 * 100]


def test_what_is_no_request_waits_for_the_answers_before_it() -> None:
    """The refusal would be taken for the rest of another answer: that is sent whole, and the connection closed."""
    for sent in (NEXT, HIDDEN.replace(b"/hidden", b"/slow"), HIDDEN.replace(b"/hidden", b"/slow") + NEXT):
        app = Echo()
        wire = converse(app, sent + b"\0\0")
        written = b"".join(wire.writes)
        assert not wire.is_kept
        assert written.count(b"HTTP/1.1 200 OK") == len(app.asked) == sent.count(b"GET")
        assert b"400" not in written
        assert written.endswith(b"]")


def test_a_broken_body_behind_an_answer_under_way_runs_nothing() -> None:
    """The answer is sent whole, the broken request is not answered, and the connection closed."""
    app = Echo()
    broken = offering(b"", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + HIDDEN)
    wire = converse(app, HIDDEN.replace(b"/hidden", b"/slow") + NEXT + broken)
    assert [path for _, path, _ in app.asked] == ["/slow", "/next"]
    assert b"".join(wire.writes).count(b"HTTP/1.1 ") == 2
    assert not wire.is_kept


def test_a_body_that_breaks_after_its_answer_began_only_ends_the_connection() -> None:
    """A refusal in the middle of an answer would be a part of it."""
    wire = converse(Echo(), b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n")
    assert b"".join(wire.writes).count(b"HTTP/1.1 ") == 1
    assert not wire.is_kept


@pytest.fixture(scope="module")
def address(artifact: Path) -> Iterator[str]:
    """Where the service listens."""
    with listen(create_app(Settings(model=artifact))) as at:
        yield at


def write_request(path: str, headers: bytes) -> bytes:
    """Return a request to encode two sequences."""
    body = json.dumps({"sequences": PAIR}).encode()
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\nHost: x\r\n" % path.encode() + headers + length + body


def talk(address: str, *parts: bytes) -> bytes:
    """Send parts, each as soon as may be, and read until the service closes."""
    host, port = address.split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("offer", OFFERS)
def test_the_service_encodes_for_who_offers_an_upgrade(offer: str, address: str) -> None:
    """Over a socket, in one write and in several; the connection is kept."""
    sent = write_request("/encode", OFFERS[offer])
    head = sent.index(b"\r\n\r\n") + 4
    for cuts in ([], [head], [40, head, head + 9]):
        parts = [sent[start:stop] for start, stop in pairwise([0, *cuts, len(sent)])]
        answers = talk(address, *parts, LAST)
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200"]
        assert b'"embeddings"' in answers


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_for_http2_and_is_answered(address: str) -> None:
    """Both of its requests on one connection, in HTTP/1.1."""
    body = json.dumps({"sequences": PAIR})
    told_of = ["-w", "%{http_code} %{http_version} "]
    flags = ["-sS", "--http2", "-H", "Content-Type: application/json", "-d", body, *told_of]
    url = f"http://{address}/encode"
    command = ["curl", *flags, url, "--next", *flags, url]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert told.count('"embeddings"') == 2
    assert told.count("200 1.1 ") == 2


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
        for (int number = 0; number < 3; number++) {
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_javas_own_client_is_answered(address: str, tmp_path: Path) -> None:
    """It offers h2c with every request, unless it is told not to."""
    source = tmp_path / "Ask.java"
    source.write_text(JAVA, encoding="utf-8")
    command = ["java", str(source), f"http://{address}/encode", json.dumps({"sequences": PAIR})]
    told = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert told.stdout.count('HTTP_1_1 200 {"embeddings"') == 3, told.stderr


NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
events {{}}
http {{
    access_log off;
    client_max_body_size 8m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass http://{address};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
        }}
        location /hidden {{ return 403; }}
    }}
}}
"""
NGINX_PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.mark.skipif(NGINX_PROGRAM is None, reason="nginx is not installed")
def test_no_request_hides_in_a_body_from_a_proxys_rules(tmp_path: Path) -> None:
    """nginx, with the usual lines for websockets, passes an offer on; what it refuses cannot come in a body either."""
    app = Echo()
    configuration = tmp_path / "nginx.conf"
    # Blank lines are skipped before a request, so that it begins wherever a read of the service's does.
    body = b"\r\n" * 2**19 + HIDDEN
    with listen(app) as address:
        configuration.write_text(NGINX.format(folder=tmp_path, address=address), encoding="utf-8")
        process = subprocess.Popen([str(NGINX_PROGRAM), "-c", str(configuration)])
        try:
            transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"), retries=8)  # until nginx listens
            with httpx.Client(transport=transport, base_url="http://x", timeout=60) as client:
                assert client.get("/hidden").status_code == 403
                for upgrade in ("h2c", "websocket"):
                    answer = client.post("/asked", content=body, headers={"Connection": "Upgrade", "Upgrade": upgrade})
                    assert answer.json() == ["POST", "/asked", body.decode()]
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert app.asked == [("POST", "/asked", body)] * 2

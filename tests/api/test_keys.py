"""API keys: who is let in, in each dialect, and how keys are made, kept and changed."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from service.api import keys
from service.api.keys import LOOK_SECONDS, KeyRing
from service.errors import InvalidKey, KeysUnusable
from tests.api.test_encode import PAIR, Serve

OPEN_PATHS = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping", "/docs", "/openapi.json"}
OPEN_PATHS |= {"/", "/page/access"}
ADMIN_PATHS = {"/debug/batches", "/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"}
FIRST, SECOND = "a-first-key-for-tests", "a-second-key-for-tests"
GUARDED = [
    ("POST", "/encode"),
    ("GET", "/info"),
    ("GET", "/tokenizer"),
    ("POST", "/invocations"),
    ("POST", "/v1/models/made:predict"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v2"),
    ("POST", "/v2/models/made/infer"),
    ("GET", "/nowhere"),
    ("DELETE", "/encode"),
]


def bearing(key: str, scheme: str = "Bearer") -> dict[str, str]:
    """Return the headers that bring a key."""
    return {"Authorization": f"{scheme} {key}"}


def raw(key: str) -> list[tuple[bytes, bytes]]:
    """Return them as ASGI has them."""
    return [(b"authorization", f"Bearer {key}".encode())]


class Clock:
    """Stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_admins_and_others_have_keys_of_their_own(serve: Serve) -> None:
    """A caller's key opens nothing of the admin's; without admins, their paths need a key like unknown ones."""
    client = serve(api_keys=FIRST, admin_key=SECOND)
    assert client.get("/debug/batches", headers=bearing(SECOND)).status_code == 200
    assert client.get("/debug/batches", headers=bearing(FIRST)).status_code == 401
    client = serve(api_keys=FIRST)
    assert client.get("/debug/batches").status_code == 401
    assert client.get("/debug/batches", headers=bearing(FIRST)).status_code == 404


def test_the_admins_key_opens_what_a_callers_does(serve: Serve, tmp_path: Path) -> None:
    """One operator needs one key, whether callers' keys are in a setting or in a file, and in every dialect."""
    file = tmp_path / "keys"
    write_hashes(file, FIRST, version=1)
    for given in ({"api_keys": FIRST}, {"api_keys_file": file}):
        client = serve(admin_key=SECOND, **given)
        for key in (FIRST, SECOND):
            assert client.post("/encode", json={"sequences": PAIR}, headers=bearing(key)).status_code == 200
            for path in ("/info", "/v1/models", "/v2/models", "/metrics"):
                assert client.get(path, headers=bearing(key)).status_code == 200
        assert client.get("/info", headers=bearing("another-key-for-tests")).status_code == 401


@pytest.mark.parametrize(
    ("given", "told"), [("short", "5 characters long: 16 or more are needed"), ("0123456789 abcdef", "spaces")]
)
def test_an_admins_key_that_is_no_use_is_told_in_plain_words(given: str, told: str, serve: Serve) -> None:
    """The start ends with what is wrong with it, in which setting, and nothing of the key itself."""
    with pytest.raises(KeysUnusable, match=f"key 1 of LENGTHWISE_ADMIN_KEY is .*{told}") as caught:
        serve(admin_key=given)
    assert given not in str(caught.value)


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_known_key_nothing_is_answered(method: str, path: str, serve: Serve) -> None:
    """No key, an unknown one, a part of one and another scheme are 401, whether or not there is such a path."""
    client = serve(api_keys=f"{FIRST}, {SECOND}")
    for headers in ({}, bearing("another-key-for-tests"), bearing(FIRST[:-1]), bearing(FIRST, "Digest"), bearing("")):
        response = client.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
        assert FIRST[:5] not in response.text
    for key in (FIRST, SECOND):
        assert client.request(method, path, headers=bearing(key)).status_code != 401


def test_a_refused_key_is_told_in_each_dialect(serve: Serve) -> None:
    """Clients of OpenAI and KServe read it in their shapes."""
    client = serve(api_keys=FIRST)
    problem = client.post("/encode").json()
    assert (problem["type"], problem["path"]) == ("urn:lengthwise:problem:invalid-key", "Authorization")
    assert client.get("/v1/models").json()["error"]["code"] == "invalid_key"
    assert client.get("/v2/models").json() == {"error": problem["detail"]}


def test_a_known_key_is_served(serve: Serve) -> None:
    """With it an answer is what it is without keys; the scheme may be written in any case."""
    expected = serve().post("/encode", json={"sequences": PAIR}).json()["embeddings"]
    client = serve(api_keys=FIRST)
    for scheme in ("Bearer", "bearer"):
        response = client.post("/encode", json={"sequences": PAIR}, headers=bearing(FIRST, scheme))
        assert response.json()["embeddings"] == expected


def test_a_body_is_not_read_without_a_key(serve: Serve) -> None:
    """Whoever is refused cannot make the service hold what they send."""

    def send() -> object:
        yield b"x"
        raise AssertionError("the body was read")

    client = serve(api_keys=FIRST, max_body_bytes=1)
    assert client.post("/encode", content=b"far too large").status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_health_and_documentation_need_no_key(path: str, serve: Serve) -> None:
    """Orchestrators have none, and the document and the page tell nothing of the instance."""
    response = serve(api_keys=FIRST).get(path)
    assert response.status_code == 200
    assert "made" not in response.text


def test_keys_are_in_no_answer_and_no_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """`/info` says that there are keys, and not which."""
    caplog.set_level(logging.DEBUG)
    client = serve(api_keys=FIRST)
    info = client.get("/info", headers=bearing(FIRST))
    assert info.json()["settings"]["api_keys"] == "**********"
    client.get("/info", headers=bearing(SECOND))
    assert FIRST not in info.text + caplog.text
    assert SECOND not in caplog.text


def test_the_document_says_who_needs_a_key(serve: Serve) -> None:
    """With keys, each guarded operation asks for one and documents its 401; without, none asks or is for admins."""
    bearer = {"type": "http", "scheme": "bearer"}
    document = serve(api_keys=FIRST, admin_key=SECOND).get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": bearer, "admin_key": bearer}
    for path, operations in document["paths"].items():
        accepted: list[dict[str, list[str]]] = (
            [{"admin_key": []}] if path in ADMIN_PATHS else [{"key": []}, {"admin_key": []}]
        )
        for operation in operations.values():
            assert ("401" in operation["responses"]) == (path not in OPEN_PATHS)
            assert operation.get("security") == (None if path in OPEN_PATHS else accepted)
    assert document["paths"].keys() >= ADMIN_PATHS
    bare = serve().get("/openapi.json").json()
    assert "securitySchemes" not in bare["components"]
    assert not bare["paths"].keys() & ADMIN_PATHS


def test_a_made_key_is_known_by_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a key once; the file holds its hash and its name, beside those that were there."""
    file = tmp_path / "keys"
    made = []
    for name in ("alice", "bob\n#"):
        keys.main([str(file), "--name", name])
        made.append(capsys.readouterr().out.strip())
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines == [
        f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}"
        for key, name in zip(made, ("alice", "bob #"), strict=True)
    ]
    ring = KeyRing(file=file)
    assert [ring.recognize(raw(key)) for key in made] == [hashlib.sha256(key.encode()).digest() for key in made]
    file.write_bytes(file.read_bytes().rstrip(b"\n"))  # as some editors leave it
    keys.main([str(file)])
    assert KeyRing(file=file).recognize(raw(capsys.readouterr().out.strip()))


def write_hashes(file: Path, *known: str, version: int) -> None:
    """Write a file of keys, each version at another time."""
    lines = [f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n" for key in known]
    file.write_text("".join(["# keys\n\n", *lines]), encoding="utf-8")
    os.utime(file, ns=(version, version))


def test_keys_change_without_a_restart(tmp_path: Path) -> None:
    """A second after the file changed, its keys are the known ones; those of the setting stay."""
    file, clock = tmp_path / "keys", Clock()
    write_hashes(file, FIRST, version=1)
    ring = KeyRing("a-third-key-for-tests", file, clock)
    assert ring.recognize(raw(FIRST))
    write_hashes(file, SECOND, version=2)
    clock.now = LOOK_SECONDS / 2
    assert ring.recognize(raw(FIRST))  # it was looked at just before
    clock.now = LOOK_SECONDS
    assert ring.recognize(raw(SECOND))
    assert ring.recognize(raw("a-third-key-for-tests"))
    with pytest.raises(InvalidKey):
        ring.recognize(raw(FIRST))


def test_what_is_kept_of_requests_is_bounded() -> None:
    """However a key is written around, no more is kept than there are keys."""
    ring = KeyRing(FIRST)
    for spaces in range(10):
        assert ring.recognize(raw(" " * spaces + FIRST))
    assert len(ring._recent) == 1


def test_a_broken_file_leaves_the_keys_as_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, by its line, and a mended one counts again; an empty one lets nobody in."""
    file, clock = tmp_path / "keys", Clock()
    write_hashes(file, FIRST, version=1)
    ring = KeyRing(file=file, clock=clock)
    file.write_text(f"{SECOND}\n", encoding="utf-8")
    for _ in range(3):
        clock.now += LOOK_SECONDS
        assert ring.recognize(raw(FIRST))
    assert caplog.text.count("line 1 of") == 1
    assert SECOND not in caplog.text
    file.unlink()
    clock.now += LOOK_SECONDS
    assert ring.recognize(raw(FIRST))
    assert "unreadable (FileNotFoundError)" in caplog.text
    write_hashes(file, version=3)
    clock.now += LOOK_SECONDS
    with pytest.raises(InvalidKey):
        ring.recognize(raw(FIRST))


@pytest.mark.parametrize("given", ["short", "has space in the middle", f"{FIRST},", "ünicode-and-long-enough"])
def test_unusable_keys_of_the_setting_end_the_start(given: str) -> None:
    """What can be guessed or cannot be sent is refused, by its number and never by itself."""
    with pytest.raises(KeysUnusable) as caught:
        KeyRing(given)
    assert "of LENGTHWISE_API_KEYS" in str(caught.value)
    assert given.strip(",") not in str(caught.value)


@pytest.mark.parametrize("content", [b"a-plain-key-in-the-file\n", b"sha256:12\n", b"\xff\n"])
def test_unusable_files_end_the_start(content: bytes, tmp_path: Path) -> None:
    """A file with a key that is not hashed, with half a hash, or of no text is refused."""
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(KeysUnusable):
        KeyRing(file=file)
    with pytest.raises(KeysUnusable, match="unreadable"):
        KeyRing(file=tmp_path / "missing")

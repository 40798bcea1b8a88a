"""--mode=serve for other machines: who does not know the token gets nothing."""

import json

import pytest
from serving import made_up, request, served

from vmr_jax.errors import UserError
from vmr_jax.modes import serve
from vmr_jax.retrieval import access

TOKEN = "a-token/with+signs=1"
IN_ADDRESS = "a-token%2Fwith%2Bsigns%3D1"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "a.mp4").write_bytes(b"SECRET")
    service = made_up(folder, "fvmr on SECRET")
    with served(service, ["*"], TOKEN) as port:
        yield port


ALL = [("GET", "/"), ("POST", "/search"), ("GET", "/videos?prefix=a"), ("GET", "/video/a"), ("GET", "/x"),
       ("GET", "/about"), ("GET", "/openapi.json"), ("GET", "/page/page.js"), ("GET", "/thumbnail/a?t=1"),
       ("POST", "/export"), ("POST", "/videos?name=a.mp4"), ("GET", "/uploads/1"),
       ("DELETE", "/video/a")]  # fmt: skip

# With the token: the file is no video, an export has other fields, and nothing is taken or removed here.
KNOWN = [200, 200, 200, 200, 404, 200, 200, 200, 400, 400, 403, 403, 403]


def answers(port, **headers):
    found = []
    for method, path in ALL:
        body = b'{"query": "a person"}' if method == "POST" else None
        kind = {"Content-Type": "application/json"} if body else {}
        found.append(request(port, method, path, body, **kind, **headers))
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "vmr_jax_80=x"},
        {"Cookie": f"token={TOKEN}"},
    ],
)
def test_without_the_token(port, headers):
    headers = (
        {**headers, "Cookie": headers["Cookie"].replace("80", str(port))} if "Cookie" in headers else headers
    )
    for (_, path), (status, found, content) in zip(ALL, answers(port, **headers), strict=True):
        assert status == 401 and found["WWW-Authenticate"] == "Bearer"
        assert b"SECRET" not in content and TOKEN.encode() not in content
        assert found["X-Content-Type-Options"] == "nosniff"
        assert path == "/" or "give the token" in json.loads(content)["message"]


def test_a_program_sends_it_as_a_header(port):
    found = answers(port, Authorization=f"Bearer {TOKEN}")
    assert [status for status, *_ in found] == KNOWN


def test_a_browser_gets_a_cookie_instead(port):
    status, headers, content = request(port, "GET", f"/?token={IN_ADDRESS}")
    assert (status, headers["Location"], content) == (303, "/", b"")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert cookie.startswith(f"vmr_jax_{port}=") and TOKEN not in cookie
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(attributes)
    assert [status for status, *_ in answers(port, Cookie=cookie)] == KNOWN
    assert [status for status, *_ in answers(port, Cookie=cookie[:-1])] == [401] * len(ALL)
    assert request(port, "GET", f"/?token={IN_ADDRESS}", Cookie=cookie)[0] == 303  # the address is cleared


def test_the_form(port):
    status, headers, content = request(port, "GET", "/")
    page = content.decode()
    assert "Token of this server" in page and "{" + "nonce}" not in page and "{" + "why}" not in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "form-action 'self'" in policy and "unsafe" not in policy
    for wrong in ("x", "", "%00", "%ff", "%ed%a0%80", "<b>", IN_ADDRESS[:-1]):
        status, _, content = request(port, "GET", f"/?token={wrong}")
        assert status == 401 and b"This is not the token." in content and b"<b>" not in content


def test_other_machines_need_a_token(monkeypatch, tmp_path):
    monkeypatch.delenv(access.VARIABLE, raising=False)
    with pytest.raises(
        UserError, match="--host=0.0.0.0 lets other machines ask .* Make one first: export VMR_JAX"
    ):
        serve.serve(None, tmp_path, "0.0.0.0", 0, None)
    monkeypatch.setenv(access.VARIABLE, "short")
    with pytest.raises(UserError, match="at least 16 letters"):
        serve.serve(None, tmp_path, "127.0.0.1", 0, None)
    access.check_token(None, "127.0.0.1", True)
    access.check_token("x" * 16, "0.0.0.0", False)
    for weak in ("x" * 15, "with a space in it", "not ascii ü" * 2, "line\nline\nline\nline"):
        with pytest.raises(UserError, match="The token must have"):
            access.check_token(weak, "127.0.0.1", True)


def test_the_time_tells_nothing(monkeypatch):
    """The comparison is the one of `secrets`, which looks at every byte."""
    seen = []
    monkeypatch.setattr(access.secrets, "compare_digest", lambda a, b: seen.append((a, b)))
    access._same("given", "expected")
    assert seen == [(b"given", b"expected")]

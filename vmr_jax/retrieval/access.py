"""The token of `--mode=serve`: who does not know it gets a page that asks for it, and nothing else."""

import html
import secrets
import urllib.parse
from importlib import resources

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vmr_jax.errors import UserError

VARIABLE = "VMR_JAX_TOKEN"  # of the environment
_LEAST = 16  # characters
_MAKE = f"export {VARIABLE}=$(python -c 'import secrets; print(secrets.token_urlsafe())')"
_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def check_token(token: str | None, host: str, is_loopback: bool) -> None:
    """UserError for a token that can be guessed, and where others can ask and there is none."""
    if not token and not is_loopback:
        raise UserError(
            f"--host={host} lets other machines ask and watch the videos, and there is no token that they "
            f"would have to know. Make one first: {_MAKE}; or leave --host out, for this machine alone."
        )
    if token and (len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(
            f"The token must have at least {_LEAST} letters, digits and signs and no space, so that no one "
            f"guesses it. Make one: {_MAKE}"
        )


class TokenGate:
    """Lets through who knows the token.

    A program sends the header 'Authorization: Bearer TOKEN' with each request. A browser opens '/?token=TOKEN',
    or types it into the form of '/', and gets a cookie instead, which is good until the server ends: so the
    token stays neither in the address nor in the browser.

    Args:
      app: what is behind the gate.
      token: the token.
    """

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token
        self._session = secrets.token_urlsafe(32)
        self._form = resources.files(__package__).joinpath("enter.html").read_text(encoding="utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        asking = HTTPConnection(scope)
        answer = self._entering(asking) if scope["path"] == "/" else None
        if answer is None and not self._is_known(asking):
            answer = self._refused(asking)
        await (answer or self._app)(scope, receive, send)

    def _entering(self, asking: HTTPConnection) -> Response | None:
        """The cookie for who gives the token in the address, or the form again; None where none is given."""
        given = QueryParams(asking.scope["query_string"]).get("token")
        if given is None:
            return None
        if not _same(given, self._token):
            return self._refused(asking, "This is not the token.")
        kept = urllib.parse.urlencode(_others(asking))  # a link to a moment still leads to it
        answer = RedirectResponse(f"/?{kept}" if kept else "/", 303, {"Cache-Control": "no-store"})
        answer.set_cookie(_cookie(asking), self._session, httponly=True, samesite="lax")
        return answer

    def _is_known(self, asking: HTTPConnection) -> bool:
        kind, _, given = asking.headers.get("authorization", "").partition(" ")
        bearer = kind.lower() == "bearer" and _same(given.strip(), self._token)
        return bearer or _same(asking.cookies.get(_cookie(asking), ""), self._session)

    def _refused(self, asking: HTTPConnection, why: str = "") -> Response:
        headers = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
        if asking.scope["path"] != "/":
            message = "Open the first page again and give the token; the server knows no one who asks without."
            return JSONResponse({"message": message}, 401, headers)
        nonce = secrets.token_urlsafe(16)
        headers["Content-Security-Policy"] = _POLICY.format(nonce=nonce)
        kept = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in _others(asking)
        )
        form = self._form.replace("{nonce}", nonce).replace("{why}", why).replace("{kept}", kept)
        return HTMLResponse(form, 401, headers)


def _cookie(asking: HTTPConnection) -> str:
    """Its name has the port, as browsers send a host's cookies to all ports of it."""
    return f"vmr_jax_{(asking.scope.get('server') or ('', 0))[1]}"


def _others(asking: HTTPConnection) -> list[tuple[str, str]]:
    """The part of an address that is not the token."""
    given = QueryParams(asking.scope["query_string"]).multi_items()
    return [(name, value) for name, value in given if name != "token"]


def _same(given: str, expected: str) -> bool:
    """Compares in a time that does not tell how much is right."""
    return secrets.compare_digest(given.encode(errors="surrogatepass"), expected.encode())

"""Where a run can be: a directory of this machine, or a URI of an object store.

    s3://BUCKET/PREFIX[?endpoint_override=HOST:PORT&scheme=http&region=NAME]
    gs://BUCKET/PREFIX[?endpoint_override=HOST:PORT&scheme=http]

S3's server can also come from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. Credentials are never part
of a URI: it is printed and recorded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple, overload
from urllib.parse import parse_qsl, quote

from mnist_tune.errors import ConfigError

Place = Path | str
"""A directory or file on this machine, or a URI that ``checked_uri`` has returned."""

_URI = re.compile(
    r"(?P<scheme>s3|gs)://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])"
    r"(?P<path>(/[A-Za-z0-9._=+@,:-]+)*)/*(\?(?P<query>[^#\s]*))?"
)
_ENDPOINT = re.compile(r"((?P<transport>https?)://)?(?P<host>[A-Za-z0-9._-]+(:[0-9]{1,5})?)/?")
_QUERY = {
    "endpoint_override": _ENDPOINT,
    "scheme": re.compile("https?"),
    "region": re.compile("[a-z0-9-]+"),
}


class Uri(NamedTuple):
    """The parts of a URI; ``path`` without slashes at its ends."""

    scheme: str
    bucket: str
    path: str
    query: tuple[tuple[str, str], ...]


def is_uri(text: str) -> bool:
    """Whether a text is meant as a URI, valid or not."""
    return re.match(r"[^/]+://|(s3|gs):", text) is not None


def checked_uri(text: str) -> str:
    """Returns a URI as everything below takes it.

    Raises:
        ConfigError: it isn't one of a store that is supported.
    """
    parse_uri(text)
    base, sign, query = text.partition("?")
    return base.rstrip("/") + sign + query


@overload
def join(place: Path, *names: str) -> Path: ...
@overload
def join(place: str, *names: str) -> str: ...
def join(place: Place, *names: str) -> Place:
    """What has these names below a place; a URI's query stays at its end."""
    if isinstance(place, Path):
        return place.joinpath(*names)
    base, sign, query = place.partition("?")
    return "/".join((base, *names)) + sign + query


@overload
def above(place: Path) -> Path: ...
@overload
def above(place: str) -> str: ...
def above(place: Place) -> Place:
    """The place that a place is in."""
    if isinstance(place, Path):
        return place.parent
    base, sign, query = place.partition("?")
    return base.rpartition("/")[0] + sign + query


def name_of(place: Place) -> str:
    """The last name of a place."""
    return place.name if isinstance(place, Path) else parse_uri(place).path.rpartition("/")[2]


def shown(place: Place) -> str:
    """A place as it's typed: a shell splits a URI's query."""
    return str(place) if isinstance(place, Path) else shlex.quote(place)


def working_copy(place: Place) -> Path:
    """The directory in which a driver works on a run: the run's own, or one in the cache."""
    if isinstance(place, Path):
        return place
    uri = parse_uri(place)
    above, _, name = uri.path.rpartition("/")
    store = repr((uri.scheme, endpoint(uri).get("endpoint_override"), uri.bucket, above))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mnist-tune" / "runs" / hashlib.sha256(store.encode()).hexdigest()[:16] / name


def with_endpoint(place: Place) -> Place:
    """A place as other machines find it: with the server that this one's environment names."""
    if isinstance(place, Path):
        return place
    uri = parse_uri(place)
    endpoint = _environment_endpoint() if uri.scheme == "s3" else None
    if endpoint is None or "endpoint_override" in dict(uri.query):
        return place
    sign = "&" if "?" in place else "?"
    return f"{place}{sign}endpoint_override={quote(endpoint, safe='')}"


def parse_uri(text: str) -> Uri:
    """Takes a URI apart.

    Raises:
        ConfigError: it isn't one of a store that is supported.
    """
    authority = text.partition("://")[2].partition("/")[0]
    if "@" in authority:
        raise ConfigError(
            "credentials can't be part of a storage URI, which is printed and recorded; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use ~/.aws/credentials or a role"
        )
    match = _URI.fullmatch(text)
    names = match["path"].split("/") if match else []
    if match is None or any(set(name) == {"."} for name in names):
        raise ConfigError(
            "a storage URI must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX: the bucket 3 to 63 "
            "lower-case letters, digits and . _ -, the rest letters, digits and . _ = + @ , : -; "
            f"got {text!r}"
        )
    try:
        query = parse_qsl(match["query"] or "", keep_blank_values=True, strict_parsing=True)
    except ValueError:
        query = [("", "")] if match["query"] else []
    known = [name for name in _QUERY if match["scheme"] == "s3" or name != "region"]
    for name, value in query:
        if name not in known or not _QUERY[name].fullmatch(value):
            raise ConfigError(
                f"{text}: what follows the ? must be {', '.join(f'{n}=…' for n in known)}, joined "
                f"by &; got {name}={value}"
            )
    return Uri(match["scheme"], match["bucket"], match["path"].strip("/"), tuple(query))


def _environment_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def endpoint(uri: Uri) -> dict[str, str]:
    """The server as pyarrow's file systems take it; empty: the store's own."""
    query = dict(uri.query)
    given = query.get("endpoint_override")
    if given is None and uri.scheme == "s3":
        given = _environment_endpoint()
    if given is None:
        return {}
    match = _ENDPOINT.fullmatch(given)
    if match is None:
        raise ConfigError(f"AWS_ENDPOINT_URL must be http(s)://HOST:PORT; got {given!r}")
    transport = query.get("scheme") or match["transport"] or "https"
    return {"endpoint_override": match["host"], "scheme": transport}

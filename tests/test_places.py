from __future__ import annotations

from pathlib import Path

import pytest

from mnist_tune.errors import ConfigError
from mnist_tune.places import (
    checked_uri,
    endpoint,
    is_uri,
    join,
    name_of,
    parse_uri,
    shown,
    with_endpoint,
    working_copy,
)


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/a/b_c/d=1", "s3://my.bucket-1/a/b_c/d=1"),
        ("gs://bucket/a//", "gs://bucket/a"),
        ("s3://bucket/a/?region=eu-west-1", "s3://bucket/a?region=eu-west-1"),
        (
            "s3://bucket/a?endpoint_override=http://localhost:9000&scheme=http",
            "s3://bucket/a?endpoint_override=http://localhost:9000&scheme=http",
        ),
    ],
)
def test_uris(text: str, uri: str) -> None:
    assert is_uri(text)
    assert checked_uri(text) == uri
    assert checked_uri(uri) == uri


@pytest.mark.parametrize(
    "text",
    [
        *("os://bucket/a", "mnist_tune.storage://x", "file:///tmp", "hdfs://host/a", "S3://bucket"),
        *("s3://", "s3:/bucket", "s3:bucket/a", "s3:///a", "s3://b", "s3://Bucket/a"),
        *("s3://bucket/../a", "s3://bucket/a/./b", "s3://bucket/a/..", "s3://bucket//a"),
        *("s3://bucket/a%2e%2e", "s3://bucket/a b", "s3://bucket/a\n", "s3://bucket/a#b"),
        *("s3://bucket/a\0", "s3://bucket/ä", "s3://bucket/a\\b"),
    ],
)
def test_what_is_no_uri_of_a_store(text: str) -> None:
    assert is_uri(text)
    with pytest.raises(ConfigError, match=r"must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"):
        checked_uri(text)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("foo=1", "got foo=1"),
        ("secret_key=x", "got secret_key=x"),
        ("scheme=ftp", "got scheme=ftp"),
        ("endpoint_override=a/b", "got endpoint_override=a/b"),
        ("endpoint_override=http://u@host", "got endpoint_override=http://u@host"),
        ("region=", "got region="),
        ("nothing", "must be endpoint_override=…, scheme=…, region=…, joined by &; got ="),
    ],
)
def test_queries_that_mean_nothing(query: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        checked_uri(f"s3://bucket/a?{query}")


def test_google_has_no_regions() -> None:
    with pytest.raises(ConfigError, match=r"must be endpoint_override=…, scheme=…, joined by &"):
        checked_uri("gs://bucket/a?region=eu")


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="set AWS_ACCESS_KEY_ID") as caught:
        checked_uri("s3://key:verysecret@bucket/a")
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("text", ["runs", "/a/b", "~/s3", "a:b", "C:\\runs", "", "s3", "./s3:/x"])
def test_directories(text: str) -> None:
    assert not is_uri(text)


def test_names_go_before_the_query() -> None:
    uri = "s3://bucket/a?scheme=http&endpoint_override=localhost:9000"
    below = join(uri, "run", "best.yaml")
    assert below == "s3://bucket/a/run/best.yaml?scheme=http&endpoint_override=localhost:9000"
    assert (parse_uri(below).path, parse_uri(below).bucket) == ("a/run/best.yaml", "bucket")
    assert name_of(below) == "best.yaml"
    assert join(Path("/a"), "b", "c") == Path("/a/b/c")
    assert name_of(Path("/a/b")) == "b"


def test_a_query_is_quoted_for_the_shell() -> None:
    assert shown("s3://bucket/a?scheme=http&region=x") == "'s3://bucket/a?scheme=http&region=x'"
    assert shown("s3://bucket/a") == "s3://bucket/a"
    assert shown(Path("/a/b")) == "/a/b"


def test_where_the_server_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def server(uri: str) -> dict[str, str]:
        return endpoint(parse_uri(uri))

    assert server("s3://bucket/a") == {}
    given = "s3://bucket/a?endpoint_override=one:9000&scheme=http"
    assert server(given) == {"endpoint_override": "one:9000", "scheme": "http"}
    assert server("s3://bucket/a?endpoint_override=one")["scheme"] == "https"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://two:9000/")
    assert server("s3://bucket/a") == {"endpoint_override": "two:9000", "scheme": "http"}
    assert server("gs://bucket/a") == {}
    assert server(given)["endpoint_override"] == "one:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://three")
    assert server("s3://bucket/a") == {"endpoint_override": "three", "scheme": "https"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no server")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL must be http"):
        server("s3://bucket/a")


def test_other_machines_are_told_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://two:9000")
    told = [
        with_endpoint(place)
        for place in ("s3://bucket/a", "s3://bucket/a?region=x", "s3://bucket/a?scheme=http")
    ]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for uri in told:
        assert isinstance(uri, str)
        expected = {"endpoint_override": "two:9000", "scheme": "http"}
        assert endpoint(parse_uri(checked_uri(uri))) == expected
    for place in ("s3://bucket/a", "gs://bucket/a", Path("/a")):
        assert with_endpoint(place) == place


def test_a_working_copy_is_one_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert working_copy(Path("/a/run")) == Path("/a/run")
    uris = [
        "s3://bucket/a/run",
        "s3://bucket/b/run",
        "s3://other/a/run",
        "gs://bucket/a/run",
        "s3://bucket/a/run?endpoint_override=one:9000",
    ]
    copies = [working_copy(uri) for uri in uris]
    assert len(set(copies)) == len(uris)
    assert {(path.name, path.parent.parent) for path in copies} == {
        ("run", tmp_path / "mnist-tune" / "runs")
    }
    assert working_copy("s3://bucket/a/run?region=eu-west-1") == copies[0]

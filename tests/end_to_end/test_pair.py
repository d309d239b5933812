"""The pair as `make run` starts it, seen through the wire."""

import http.client
import re
import socket
from collections.abc import Iterator

import boto3
import pytest

from tests.end_to_end.processes import HOST, Server, request, servers, until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
VERSIONS = {"main-api": "1.0.0", "auxiliary-service": "1.0.0"}


def test_the_three_buckets_come_in_the_contracts_shape(pair: dict[str, Server]) -> None:
    answer = request(pair["gateway"].port, "/api/s3/buckets")

    envelope = answer.json
    assert answer.status == 200
    assert list(envelope) == ["success", "data", "versions", "timestamp"]
    assert envelope["versions"] == VERSIONS
    assert TIME.match(envelope["timestamp"])
    assert envelope["data"]["count"] == len(envelope["data"]["data"]) == 3
    assert all(list(bucket) == ["name", "creationDate"] for bucket in envelope["data"]["data"])


def test_all_thirty_parameters_come_in_one_answer(pair: dict[str, Server]) -> None:
    data = request(pair["gateway"].port, "/api/parameters/list").json["data"]

    names = {item["name"] for item in data["data"]}
    assert data["count"] == len(data["data"]) == len(names) == 30
    assert all(name.startswith("/myproject/") for name in names)
    secrets = [item for item in data["data"] if item["type"] == "SecureString"]
    assert secrets
    assert all(item["value"] is None and item["redacted"] is True for item in secrets)


def test_one_parameter_comes_with_its_value(pair: dict[str, Server]) -> None:
    item = request(pair["gateway"].port, "/api/parameters?name=database/host").json["data"]["data"]

    assert item["name"] == "/myproject/database/host"
    assert item["type"] == "String"
    assert item["value"]
    assert set(item) == {"name", "type", "value", "version", "lastModifiedDate", "dataType"}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/parameters", 400),
        ("/api/parameters?name=", 400),
        ("/api/parameters?name=a&name=b", 400),
        ("/api/parameters?name=" + "a" * 1012, 400),
        ("/api/parameters?name=%2e%2e%2fetc", 400),
        ("/api/parameters?name=a%00b", 400),
        ("/api/parameters?name=database%252fhost", 400),
        ("/api/parameters?name=%C3%A9", 400),
        ("/api/parameters?name=/otherproject/secret", 400),
        ("/api/parameters?name=does/not/exist", 404),
        ("/api/parameters?name=database%2Fhost", 200),
        ("/api/parameters?name=/myproject/database/host", 200),
        ("/api/parameters?name=database/host&unknown=1", 400),
        ("/api/parameters?name=database/password&decrypt=true", 403),
        ("/api/s3/buckets?limit=1001", 400),
        ("/api//s3/buckets", 404),
        ("/api/s3/buckets/", 404),
        ("/api%2Fs3/buckets", 404),
        ("//evil.example/api/s3/buckets", 404),
    ],
)
def test_nonsense_gets_a_clear_error(pair: dict[str, Server], target: str, status: int) -> None:
    answer = request(pair["gateway"].port, target)

    assert answer.status == status
    assert answer.json["success"] is (status == 200)
    assert "Location" not in answer.headers
    if status != 200:
        assert {"error", "code", "requestId", "versions", "timestamp"} <= set(answer.json)
        assert answer.headers["X-Request-ID"] == answer.json["requestId"]


def test_every_answer_has_its_headers_and_none_names_the_server(pair: dict[str, Server]) -> None:
    for target in ("/api/health", "/api/s3/buckets", "/nowhere", "/", "/docs", "/openapi.json", "/metrics"):
        headers = request(pair["gateway"].port, target, Origin="https://app.example").headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["X-Request-ID"]
        assert "Server" not in headers


def test_an_id_travels_into_both_logs_and_back(pair: dict[str, Server]) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = request(
        pair["gateway"].port,
        "/api/s3/buckets?prefix=nothing-like-this",
        X_Request_ID="travelling-id",
        traceparent=f"00-{trace}-b7ad6b7169203331-01",
    )

    assert answer.headers["X-Request-ID"] == "travelling-id"
    for name in ("gateway", "auxiliary"):
        lines = [line for line in pair[name].lines() if line.get("requestId") == "travelling-id"]
        assert [line["route"] for line in lines if "route" in line], name
        assert {line["traceId"] for line in lines} == {trace}
        assert "nothing-like-this" not in str(lines)


def test_what_gunicorn_refuses_has_the_one_body(pair: dict[str, Server]) -> None:
    requests = {
        400: b"GET / HTTP/1.1\r\n\r\n",
        414: b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        431: b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 20000 + b"\r\n\r\n",
        501: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: snappy\r\n\r\n",
    }
    for status, data in requests.items():
        with socket.create_connection((HOST, pair["gateway"].port), timeout=5) as client:
            client.sendall(data)
            response = http.client.HTTPResponse(client)
            response.begin()
            body = response.read()
        assert response.status == status
        assert response.headers["Content-Type"] == "application/json"
        assert b'"code"' in body
        assert response.headers["X-Request-ID"].encode() in body
        assert "Server" not in response.headers
    metrics = request(pair["gateway"].port, "/metrics").body.decode()
    assert 'route="<unparsed>",status_code="431"' in metrics


def test_metrics_count_what_was_asked_and_show_the_workers(pair: dict[str, Server]) -> None:
    request(pair["gateway"].port, "/api/s3/buckets")
    gateway = request(pair["gateway"].port, "/metrics").body.decode()
    auxiliary = request(pair["auxiliary"].port, "/metrics").body.decode()

    assert re.search(
        r'http_requests_total\{app="main-api",method="GET",route="/api/s3/buckets",status_code="200"\} [1-9]',
        gateway,
    )
    assert re.search(
        r'upstream_request_duration_seconds_count\{outcome="2xx",service="auxiliary-service"\} [1-9]', gateway
    )
    assert re.search(
        r'aws_request_duration_seconds_count\{operation="ListBuckets",outcome="success"\} [1-9]', auxiliary
    )
    for pid in pair["gateway"].workers():
        assert re.search(rf'process_resident_memory_bytes\{{pid="{pid}"\}} [1-9]', gateway)


def test_a_thousand_requests_leave_the_workers_small(pair: dict[str, Server]) -> None:
    connection = http.client.HTTPConnection(HOST, pair["gateway"].port, timeout=30)
    for number in range(1000):
        connection.request("GET", "/api/s3/buckets" if number % 2 else "/api/parameters?name=database/host")
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()

    most = {"gateway": 80 * 1024**2, "auxiliary": 120 * 1024**2}
    for name, limit in most.items():
        metrics = request(pair[name].port, "/metrics").body.decode()
        resident = [
            float(value) for value in re.findall(r"process_resident_memory_bytes\{.*\} (\S+)", metrics)
        ]
        assert resident
        print(f"{name}: {max(resident) / 1024**2:.0f} MB resident per worker after 1,000 requests")
        assert max(resident) <= limit


@pytest.fixture(scope="module")
def full() -> Iterator[dict[str, Server]]:
    """Run the pair with 1,000 buckets and 500 parameters that an AWS client made."""
    with servers("aws", "auxiliary", "gateway", PROJECT_NAME="large", AWS_REGION="us-west-2") as running:
        session = boto3.Session("local", "demonstration", region_name="us-west-2")
        endpoint = f"http://{HOST}:{running['aws'].port}"
        s3 = session.client("s3", endpoint_url=endpoint)
        ssm = session.client("ssm", endpoint_url=endpoint)
        for number in range(1000):
            s3.create_bucket(
                Bucket=f"many-{number:04}", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
            )
        for number in range(500):
            ssm.put_parameter(Name=f"/large/many/{number:04}", Value=str(number), Type="String")
        s3.close()
        ssm.close()
        until(lambda: request(running["gateway"].port, "/api/health/ready").status == 200, "ready")
        yield running


def test_a_thousand_buckets_come_complete_and_once_each(full: dict[str, Server]) -> None:
    data = request(full["gateway"].port, "/api/s3/buckets?prefix=many-").json["data"]

    assert data["count"] == 1000
    assert sorted(bucket["name"] for bucket in data["data"]) == [
        f"many-{number:04}" for number in range(1000)
    ]


def test_five_hundred_parameters_come_complete_and_once_each(full: dict[str, Server]) -> None:
    data = request(full["gateway"].port, "/api/parameters/list?prefix=many").json["data"]

    expected = {f"/large/many/{number:04}": str(number) for number in range(500)}
    assert data["count"] == 500
    assert {item["name"]: item["value"] for item in data["data"]} == expected


def test_five_hundred_parameters_come_complete_page_by_page(full: dict[str, Server]) -> None:
    seen: list[str] = []
    target = "/api/parameters/list?limit=90&prefix=many"
    token = ""
    for _ in range(30):
        data = request(full["gateway"].port, target + token).json["data"]
        seen += [item["name"] for item in data["data"]]
        if "nextToken" not in data:
            break
        token = f"&nextToken={data['nextToken']}"
    assert sorted(seen) == [f"/large/many/{number:04}" for number in range(500)]

"""Heads of responses are read as the standard library reads them, only faster."""

from __future__ import annotations

import http.client
import io

import pytest

from crawler.worker.answers import MAX_HEADERS, MAX_LINE, read_headers

#: Headers as servers send them, and as they should not.
HEADS = {
    "usual": b"Content-Type: image/jpeg\r\nContent-Length: 5\r\n",
    "none": b"",
    "bare line ends": b"Content-Length: 5\nETag: x\n",
    "spaces": b"Content-Length: \t 5 \t\r\nEmpty:\r\nBlank:   \r\n",
    "twice": b"Content-Length: 5\r\nContent-Length: 6\r\ncontent-length: 7\r\n",
    "folded": b"Content-Type: image/jpeg;\r\n charset=x\r\nETag: y\r\n",
    "folded first": b" lost\r\nETag: y\r\n",
    "no colon": b"ETag: y\r\nnonsense\r\nContent-Length: 5\r\n",
    "blank before colon": b"Content-Length : 5\r\nETag: y\r\n",
    "no name": b": 5\r\nETag: y\r\n",
    "zero byte": b"ETag: a\0b\r\nContent-Length: 5\r\n",
    "return within": b"ETag: a\rContent-Length: 6\r\nContent-Length: 5\r\n",
    "other characters": "ETag: é\u0100\r\n".encode() + b"X: \xff\xfe\x85\r\nContent-Length: 5\r\n",
    "line separators": b"ETag: a\x0bb\x0cc\x1cd\x85e\r\nContent-Length: 5\r\n",
    "colons": b"Location: http://a.example:80/b\r\n",
}


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b""])
@pytest.mark.parametrize("name", HEADS)
def test_as_the_standard_library(name: str, end: bytes) -> None:
    """Names, values, their order and what is said to be wrong with them are the same."""
    ours = read_headers(io.BytesIO(HEADS[name] + end))
    theirs = http.client.parse_headers(io.BytesIO(HEADS[name] + end))
    assert ours.items() == theirs.items()
    assert list(map(str, ours.defects)) == list(map(str, theirs.defects))
    assert ours.get_payload() == theirs.get_payload()


def test_what_follows_is_left() -> None:
    """The body is not touched."""
    file = io.BytesIO(b"ETag: y\r\n\r\nbody")
    read_headers(file)
    assert file.read() == b"body"


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"X: y\r\n" * (MAX_HEADERS + 1), http.client.HTTPException),
        (b"X: " + b"y" * MAX_LINE + b"\r\n", http.client.LineTooLong),
    ],
)
def test_bounds(head: bytes, error: type[Exception]) -> None:
    """More headers than that, or a longer line, are refused."""
    with pytest.raises(error):
        read_headers(io.BytesIO(head + b"\r\n"))

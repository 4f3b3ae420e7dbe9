"""
Examples of robots.txt, as data: whom each is about, what it says, and what follows for URLs.

Source: RFC 9309 (the number is that of the section); "How Google interprets the robots.txt specification", Google
Search Central, where it agrees with the RFC or says what the RFC leaves open.
"""

from __future__ import annotations

from typing import NamedTuple

#: Of all URLs below.
HOST = "https://www.example.com"


class Vector(NamedTuple):
    """One robots.txt and what it means for one product."""

    #: Where it is from.
    source: str
    #: Whose rules count.
    product: str
    text: str
    #: Paths, with their query, that may be fetched.
    allowed: tuple[str, ...] = ()
    #: Paths, with their query, that may not.
    disallowed: tuple[str, ...] = ()


def disallow(source: str, rule: str, matched: tuple[str, ...], others: tuple[str, ...] = ()) -> Vector:
    """Return a vector of one rule: *matched* are disallowed by it, *others* are not."""
    return Vector(source, "foobot", f"User-agent: *\nDisallow: {rule}\n", others, matched)


def contend(source: str, rules: str, path: str, is_allowed: bool) -> Vector:
    """Return a vector of rules that both fit *path*; they stand on one line each."""
    found = (path,)
    return Vector(
        source, "foobot", f"user-agent: *\n{rules}\n", found if is_allowed else (), () if is_allowed else found
    )


_SIMPLE = """User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot

EOF
"""
_LONGEST = """User-Agent: foobot
Allow: /example/page/
Disallow: /example/page/disallowed.gif
"""
_TWICE = """user-agent: ExampleBot
disallow: /foo
disallow: /bar

user-agent: ExampleBot
disallow: /baz
"""
_GROUPS = """user-agent: googlebot-news
disallow: /news

user-agent: *
disallow: /all

user-agent: googlebot
disallow: /web
"""
_BETWEEN = """user-agent: a
sitemap: https://example.com/sitemap.xml

user-agent: b
disallow: /b
"""
_FISH = ("/fish", "/fish.html", "/fish/salmon.html", "/fishheads", "/fishheads/yummy.html", "/fish.php?id=anything")
_NO_FISH = ("/Fish.asp", "/catfish", "/?id=fish", "/desert/fish")

RFC_9309 = [
    Vector("2.2.1 groups of one product are one", "ExampleBot", _TWICE, ("/qux",), ("/foo", "/bar", "/baz")),
    Vector("2.2.1 whatever the case", "EXAMPLEBOT", _TWICE, ("/qux",), ("/foo", "/bar", "/baz")),
    Vector("2.2.1 no group fits", "otherbot", _TWICE, ("/foo", "/baz")),
    Vector(
        "2.2.2 rules before the first group", "foobot", "Disallow: /x\nUser-agent: *\nDisallow: /y\n", ("/x",), ("/y",)
    ),
    Vector("2.2.2 equal rules: it is allowed", "foobot", "User-agent: *\nDisallow: /p\nAllow: /p\n", ("/p",)),
    Vector("2.2.2 /robots.txt itself", "foobot", "User-agent: *\nDisallow: /\n", ("/robots.txt",), ("/robots.html",)),
    Vector("2.2.2 an empty rule", "foobot", "User-agent: *\nDisallow:\n", ("/", "/x")),
    Vector("2.2.2 no rule at all", "foobot", "", ("/", "/x")),
    disallow("2.2.2 a query", "/foo/bar?baz=quz", ("/foo/bar?baz=quz",), ("/foo/bar", "/foo/bar?baz=qux")),
    disallow(
        "2.2.2 reserved characters, escaped in both",
        "/foo/bar?baz=https%3A%2F%2Ffoo.bar",
        ("/foo/bar?baz=https%3A%2F%2Ffoo.bar",),
    ),
    disallow("2.2.2 beyond ASCII", "/foo/bar/ツ", ("/foo/bar/%E3%83%84",), ("/foo/bar/%E3%83%85",)),
    disallow("2.2.2 beyond ASCII, escaped", "/foo/bar/%E3%83%84", ("/foo/bar/%E3%83%84",)),
    disallow("2.2.2 escaped without need", "/foo/bar/%62%61%7A", ("/foo/bar/baz", "/foo/bar/%62%61%7A")),
    disallow("2.2.2 case counts", "/Fish", ("/Fish",), ("/fish",)),
    disallow("2.2.3 a comment", "/a # but not all", ("/a", "/ab"), ("/b",)),
    disallow("2.2.3 the end", "/this/path/exactly$", ("/this/path/exactly",), ("/this/path/exactly/x",)),
    disallow("2.2.3 anything", "/this/*/exactly", ("/this/path/exactly", "/this/a/b/exactly"), ("/this/exactly",)),
    disallow(
        "2.2.3 an asterisk", "/path/file-with-a-%2A.html", ("/path/file-with-a-*.html",), ("/path/file-with-a-b.html",)
    ),
    disallow("2.2.3 a dollar sign", "/path/foo-%24", ("/path/foo-$",), ("/path/foo-",)),
    Vector("2.2.4 other records end no group", "a", _BETWEEN, ("/a",), ("/b",)),
    Vector("2.2.4 nor begin one", "b", _BETWEEN, ("/a",), ("/b",)),
    Vector(
        "5.1 any",
        "anybot",
        _SIMPLE,
        ("/publications/", "/other", "/a.gif?size=1"),
        ("/a.gif", "/example/", "/example/x"),
    ),
    Vector(
        "5.1 foobot",
        "foobot",
        _SIMPLE,
        ("/example/page.html", "/example/allowed.gif"),
        ("/", "/publications/", "/example/"),
    ),
    Vector("5.1 barbot", "barbot", _SIMPLE, ("/", "/a.gif", "/example/x"), ("/example/page.html",)),
    Vector("5.1 bazbot", "bazbot", _SIMPLE, ("/", "/a.gif", "/example/x"), ("/example/page.html",)),
    Vector("5.1 quxbot", "quxbot", _SIMPLE, ("/", "/a.gif", "/example/page.html")),
    Vector("5.2", "foobot", _LONGEST, ("/example/page/", "/example/page/other.gif"), ("/example/page/disallowed.gif",)),
]

GOOGLE = [
    disallow("/", "/", ("/", "/x", "/x/y?z")),
    disallow("/*", "/*", ("/", "/x", "/x/y?z")),
    disallow("/$", "/$", ("/",), ("/x",)),
    disallow("/fish", "/fish", _FISH, _NO_FISH),
    disallow("/fish*", "/fish*", _FISH, _NO_FISH),
    disallow(
        "/fish/",
        "/fish/",
        ("/fish/", "/fish/?id=anything", "/fish/salmon.htm"),
        ("/fish", "/fish.html", "/animals/fish/", "/Fish/Salmon.asp"),
    ),
    disallow(
        "/*.php",
        "/*.php",
        (
            "/index.php",
            "/filename.php",
            "/folder/filename.php",
            "/folder/filename.php?parameters",
            "/folder/any.php.file.html",
            "/filename.php/",
        ),
        ("/", "/windows.PHP"),
    ),
    disallow(
        "/*.php$",
        "/*.php$",
        ("/filename.php", "/folder/filename.php"),
        ("/filename.php?parameters", "/filename.php/", "/filename.php5", "/windows.PHP"),
    ),
    disallow("/fish*.php", "/fish*.php", ("/fish.php", "/fishheads/catfish.php?parameters"), ("/Fish.PHP",)),
    contend("the longer rule allows", "allow: /p\ndisallow: /", "/page", True),
    contend("equal rules: allowed", "allow: /folder\ndisallow: /folder", "/folder/page", True),
    contend("the longer rule disallows", "allow: /page\ndisallow: /*.htm", "/page.htm", False),
    contend("equally long rules: allowed", "allow: /page\ndisallow: /*.ph", "/page.php5", True),
    contend("only the root is allowed", "allow: /$\ndisallow: /", "/", True),
    contend("all but the root is disallowed", "allow: /$\ndisallow: /", "/page.htm", False),
    Vector("groups: googlebot-news", "googlebot-news", _GROUPS, ("/all", "/web"), ("/news",)),
    Vector("groups: googlebot", "googlebot", _GROUPS, ("/news", "/all"), ("/web",)),
    Vector("groups: otherbot", "otherbot", _GROUPS, ("/news", "/web"), ("/all",)),
    Vector("a version counts for nothing", "googlebot", "user-agent: googlebot/1.2\ndisallow: /x\n", ("/y",), ("/x",)),
    Vector("nor does an asterisk", "googlebot", "user-agent: googlebot*\ndisallow: /x\n", ("/y",), ("/x",)),
    Vector("a byte order mark is passed over", "foobot", "\ufeffUser-agent: *\nDisallow: /x\n", ("/y",), ("/x",)),
    Vector("lines that end in CR LF", "foobot", "User-agent: *\r\nDisallow: /x\r\n", ("/y",), ("/x",)),
    Vector("lines that end in CR", "foobot", "User-agent: foobot/2\rDisallow: /x\r", ("/y",), ("/x",)),
    Vector("lines that are none", "foobot", "User-agent: *\n<html>\nDisallow: /x\n\x00\n", ("/y",), ("/x",)),
]

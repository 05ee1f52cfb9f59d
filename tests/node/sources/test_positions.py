"""Where a polled source is read on: links, cursors, validators, and when a mark means nothing any more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from node.runtime.guarded_http import Fetched
from node.runtime.guarded_network import OutboundFault
from node.sources.positions import PollPosition, next_link, next_page, position_of, request_url, seen, validators
from node.sources.settings import InvalidConfigurationError, hidden
from node.sources.settings import read as read_settings
from node.sources.settings.poll import PollSourceSettings
from node.worker.parsing.polled import Polled

URL = "https://x.test/events?limit=2"


def settings(**more: Any) -> PollSourceSettings:
    return PollSourceSettings.model_validate({"url": URL, **more})


def answer(url: str = URL, **headers: str) -> Fetched:
    return Fetched(status=200, headers=headers, body=b"", is_cut=False, url=url)


def polled(cursor: str = "") -> Polled:
    return Polled(parts=(), events=0, cursor=cursor, lag=None, digest="d", is_same=False)


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("", ""),
        ('<https://x.test/2>; rel="next"', "https://x.test/2"),
        ("</2>;rel=next", "/2"),
        ("<?page=2>  ;  REL = NEXT", "?page=2"),
        ('<a>; rel="prev", <b>; rel="last next"; title="x"', "b"),
        ('<a>; title="<evil>; rel=next, <worse>; rel=next"; rel="prev", <b>; rel=next', "b"),
        ('<a>; title="q\\"<c>; rel=next"; rel=next', "a"),
        ("<a>; rel=prev; rel=next", ""),
        ('<a>; rel=next; anchor="#x", <b>; rel=next', "b"),
        ("<a>; rel=nextish", ""),
        ("a; rel=next", ""),
        ("<a>", ""),
        ("<a>; rel", ""),
        ("<a>; rel=next;", "a"),
        ("<>; rel=next", ""),
        ("<" * 100_000, ""),
        ("<a>" + " ;" * 50_000 + "x", ""),
        ("<a>;" + " " * 100_000 + "rel=next", ""),
        ('<a>; rel="' + "\\" * 100_000, ""),
    ],
)
def test_links(header: str, target: str) -> None:
    assert next_link(header) == target


def test_links_lead_on_from_where_the_answer_came_from() -> None:
    start = position_of(settings(followLinks=True), None)
    here = answer("https://y.test/a/b?x=1", link='<c?p=2>; rel="next"')
    after = next_page(settings(followLinks=True), start, here, polled())
    assert after is not None
    assert request_url(settings(followLinks=True), after) == "https://y.test/a/c?p=2"
    assert next_page(settings(followLinks=True), start, answer(), polled()) is None
    assert next_page(settings(followLinks=True), start, answer(link=f"<{URL}>; rel=next"), polled()) is None
    for bad in ("http://x.test/2", "file:///etc/passwd", "https://u:p@x.test/"):
        with pytest.raises(OutboundFault):
            next_page(settings(followLinks=True), start, answer(link=f"<{bad}>; rel=next"), polled())


def test_cursors_are_sent_as_a_parameter() -> None:
    by_path = settings(cursorPath="/next", cursorParameter="after")
    start = position_of(by_path, None)
    after = next_page(by_path, start, answer(), polled("a b&c=d/\u00e9"))
    assert after is not None
    assert request_url(by_path, after) == "https://x.test/events?limit=2&after=a+b%26c%3Dd%2F%C3%A9"
    assert next_page(by_path, after, answer(), polled(after.cursor)) is None
    assert next_page(by_path, after, answer(), polled("")) is None, "a cursor that is not given is where it was"
    by_field = settings(cursorField="/at", cursorParameter="limit")
    later = next_page(by_field, position_of(by_field, None), answer(), polled("10"))
    assert later is not None
    assert request_url(by_field, later) == "https://x.test/events?limit=10"
    assert next_page(by_field, later, answer(), polled("9")) is None, "the greatest value never falls"


def test_validators_go_with_the_request_they_came_from() -> None:
    by_path = settings(cursorPath="/next", cursorParameter="after")
    here = position_of(by_path, None)
    stays = seen(by_path, here, answer(etag='W/"1"', **{"last-modified": "Mon"}), polled())
    assert validators(by_path, stays) == {"If-None-Match": 'W/"1"', "If-Modified-Since": "Mon"}
    assert validators(by_path, here) == {}
    after = next_page(by_path, stays, answer(), polled("c"))
    assert after is not None
    assert validators(by_path, after) == {}
    hostile = seen(by_path, here, answer(etag="x" * 2_000, **{"last-modified": "a\r\nb"}), polled())
    assert validators(by_path, hostile) == {}
    linked = settings(followLinks=True)
    assert validators(linked, seen(linked, position_of(linked, None), answer(etag="1"), polled())) == {}


def test_a_mark_is_of_the_settings_it_came_from() -> None:
    before = settings(cursorPath="/next", cursorParameter="after", headers={"A": "b"})
    position = PollPosition(of=position_of(before, None).of, cursor="c", etag="e", request="r", digest="d")
    assert position_of(before, position.saved()) == position
    for same in ({"interval": 5}, {"headers": {"A": "c"}}, {"pagesMax": 3}):
        changed = settings(**{"cursorPath": "/next", "cursorParameter": "after", **same})
        assert position_of(changed, position.saved()) == position
    other = settings(cursorPath="/next", cursorParameter="after", url="https://x.test/others")
    assert position_of(other, position.saved()).cursor == ""
    assert position_of(before, {"a stranger's": "mark"}).cursor == ""


WRONG = {
    "/configuration/url": [
        {"url": "ftp://x.test/"},
        {"url": "https://user:pw@x.test/"},
        {"url": "https://x.test:99999/"},
        {"url": "https://x.test/ "},
        {"url": "https://x.test/\u00e9"},
        {"url": "https://x.test/\n"},
        {"url": "https:///x"},
        {"url": "https://x.test/#f"},
    ],
    "/configuration/interval": [{"interval": 0.5}, {"interval": 86_401}, {"interval": "often"}],
    "/configuration/headers": [
        {"headers": {"Host": "x"}},
        {"headers": {"a b": "x"}},
        {"headers": {"A": "x\r\nB: y"}},
        {"headers": {"A": ""}},
        {"headers": {"A": "x", "a": "y"}},
    ],
    "/configuration/caPem": [{"caPem": "no certificate"}],
    "/configuration/delimiter": [{"delimiter": '"'}, {"delimiter": ",,"}, {"delimiter": "\n"}],
    "/configuration": [
        {"cursorPath": "/a", "followLinks": True},
        {"cursorPath": "/a", "cursorField": "/b", "cursorParameter": "c"},
        {"cursorPath": "/a"},
        {"cursorParameter": "a"},
        {"format": "csv", "cursorPath": "/a", "cursorParameter": "b"},
        {"format": "csv", "eventsPath": ""},
        {"externalIdHeader": "ETag", "eventsPath": "/a"},
        {"body": "x"},
        {"cursorField": "/a", "cursorParameter": "b", "pagesFrom": "first"},
    ],
}


@pytest.mark.parametrize(("field", "configurations"), WRONG.items())
def test_settings_that_are_refused(field: str, configurations: list[dict[str, Any]]) -> None:
    for configuration in configurations:
        with pytest.raises(InvalidConfigurationError) as refused:
            read_settings("poll", {"url": URL, **configuration})
        assert refused.value.fields["field"] == field, configuration


def test_headers_are_not_shown() -> None:
    configuration = {"url": URL, "headers": {"Authorization": "Bearer hush"}}
    read = PollSourceSettings.model_validate(configuration)
    assert read.private_headers == {"Authorization": "Bearer hush"}
    assert "hush" not in f"{read!r}{hidden(configuration)}{read.model_dump_json()}"
    with pytest.raises(ValidationError) as refused:
        PollSourceSettings.model_validate({"url": URL, "headers": {"Authorization": "Bearer hush\n"}})
    assert "hush" not in str(refused.value)


# --- pages, links and redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("https://x.test/events?limit=2", "?limit=2&after=9", "https://x.test/events?limit=2&after=9"),
        ("https://x.test/a/b", "../c", "https://x.test/c"),
        ("https://x.test/a/b", "//y.test/c", "https://y.test/c"),
        ("http://x.test/a/b", "http://y.test/c", "http://y.test/c"),
        ("https://moved.test/new/page", "2", "https://moved.test/new/2"),
    ],
)
def test_a_link_is_resolved_against_where_its_answer_came_from(page: str, link: str, target: str) -> None:
    """That is the last URL of a chain of redirects, not the one that was requested."""
    config = settings(followLinks=True)
    start = position_of(config, None)
    after = next_page(config, start, answer(page, link=f"<{link}>; rel=next"), polled())
    assert after is not None
    assert request_url(config, after) == target
    assert after.of == start.of


@pytest.mark.parametrize(
    "link",
    [
        "ftp://x.test/2",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://x.test/2",
    ],
)
def test_a_link_that_cannot_be_called_is_a_fault(link: str) -> None:
    config = settings(followLinks=True)
    with pytest.raises(OutboundFault):
        next_page(config, position_of(config, None), answer(link=f"<{link}>; rel=next"), polled())


def test_a_page_that_links_to_itself_is_the_last_one() -> None:
    config = settings(followLinks=True)
    start = position_of(config, None)
    assert next_page(config, start, answer(link=f"<{URL}>; rel=next"), polled()) is None
    second = next_page(config, start, answer(link="<?page=2>; rel=next"), polled())
    assert second is not None
    assert next_page(config, second, answer(link="<?page=2>; rel=next"), polled()) is None


def test_a_cursor_that_does_not_move_on_is_the_last_one() -> None:
    config = settings(cursorPath="/next", cursorParameter="after")
    start = position_of(config, None)
    after = next_page(config, start, answer(), polled("7"))
    assert after is not None
    assert request_url(config, after) == "https://x.test/events?limit=2&after=7"
    assert next_page(config, after, answer(), polled("7")) is None
    assert next_page(config, after, answer(), polled("")) is None
    again = next_page(config, after, answer(), polled("5"))
    assert again is not None, "a cursor of the server's own may look like anything"
    assert again.cursor == "5"


def test_the_greatest_value_of_a_field_never_goes_back() -> None:
    config = settings(cursorField="/id", cursorParameter="since")
    first = next_page(config, position_of(config, None), answer(), polled("9"))
    assert first is not None
    assert next_page(config, first, answer(), polled("5")) is None
    greater = next_page(config, first, answer(), polled("10"))
    assert greater is not None
    assert greater.cursor == "10", "numbers are compared as numbers"


@pytest.mark.parametrize("value", ["x" * 1_025, "ä", "a\nb", "a\x7f"])
def test_validators_that_cannot_be_sent_back_are_dropped(value: str) -> None:
    config = settings()
    start = position_of(config, None)
    after = seen(config, start, answer(etag=value, **{"last-modified": value}), polled())
    assert (after.etag, after.last_modified) == ("", "")
    assert validators(config, after) == {}


@pytest.mark.parametrize("more", [{"method": "POST", "body": "{}"}, {"followLinks": True}])
def test_validators_are_sent_only_where_an_unchanged_body_means_that_nothing_is_new(more: dict[str, Any]) -> None:
    config = settings(**more)
    start = position_of(config, None)
    assert validators(config, seen(config, start, answer(etag='"1"'), polled())) == {}


SAVED = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(max_size=20) for name in ("cursor", "page", "request", "etag", "last_modified", "digest")
    },
)


@given(saved=SAVED)
def test_a_position_survives_being_saved(saved: dict[str, str]) -> None:
    config = settings()
    position = position_of(config, {**saved, "of": position_of(config, None).of, "unknown": "of a later version"})
    assert position_of(config, position.saved()) == position
    assert all(position.saved().values()), "what is empty is not saved"


@given(
    header=st.text(alphabet='<>;,="\\ relnxtah?/1', max_size=60)
    | st.lists(st.sampled_from(["<a>", "<b>", ";", ",", "rel=next", 'rel="next"', 'title="<x>; rel=next"', " "])).map(
        "".join
    )
)
def test_any_link_header_is_read_and_names_a_target_that_stands_in_it(header: str) -> None:
    target = next_link(header)
    assert f"<{target}>" in header or target == ""
    assert target == "" or "next" in header.lower()

"""The page at `/`, in a real browser: what it shows is what the server said, and nothing else is asked of anyone."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from serving import served

pytest.importorskip("playwright", reason="the page's tests need Playwright (pip install betoken[dev])")
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
SETTLED = re.compile("identical|different|error|stopped")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the page's tests need Chromium on the PATH, and there is none"
)


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with served() as found:
        yield found.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """What a page did beside what it shows."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.urls: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self.urls.append(request.url))


@pytest.fixture
def seen(page: Page) -> Seen:
    return Seen(page)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def opened(page: Page, seen: Seen, server_url: str) -> Iterator[Page]:
    """The page, ready. After the test: it has met no error, and has asked no other origin for anything."""
    page.goto(server_url + "/")
    expect(page.locator("#verdict")).to_have_text("Ready.")
    yield page
    assert seen.errors == []
    assert [url for url in seen.urls if not url.startswith(server_url + "/")] == []


def race(page: Page) -> dict[str, Any]:
    """Start, and wait for the end."""
    page.click("#start")
    expect(page.locator("#result")).to_have_attribute("data-outcome", SETTLED)
    result: dict[str, Any] = page.evaluate("window.__race")
    return result


def shown(page: Page, lane: str) -> list[tuple[str, str]]:
    """(source, text) of each coloured stretch."""
    spans = page.eval_on_selector_all(
        f"#{lane} .output > span", "all => all.map(one => [one.dataset.source, one.textContent])"
    )
    return [(source, text) for source, text in spans]


def legend(page: Page, lane: str) -> dict[str, int]:
    entries = page.eval_on_selector_all(
        f"#{lane} .legend li", "all => all.map(one => [one.dataset.source, parseInt(one.lastChild.textContent)])"
    )
    return dict(entries)


def event(content: Any) -> str:
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"


def chunk(text: str, source: str = "target", finish: str | None = None) -> str:
    choice = {"index": 0, "text": text, "finish_reason": finish, "sources": [{"text": text, "source": source}]}
    return event({"object": "text_completion", "choices": [choice]})


def answer_with(page: Page, plain: str, speculative: str, status: int = 200, kind: str = "text/event-stream") -> None:
    """Answer completions with these bodies instead of the server's."""

    def fulfil(route: Route) -> None:
        speculates = route.request.post_data_json["speculation"].get("enabled", True)
        route.fulfill(status=status, content_type=kind, body=speculative if speculates else plain)

    page.route("**/v1/completions", fulfil)


DONE = event("[DONE]")


@pytest.mark.parametrize("order", ["together", "apart"])
@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_both_panes_end_alike_and_the_colours_are_the_statistics(opened: Page, order: str, temperature: str) -> None:
    opened.check(f"input[name=order][value={order}]", force=True)
    opened.select_option("#method", "draft")
    opened.fill("#max-tokens", "60")
    opened.fill("#temperature", temperature)
    result = race(opened)
    assert result["state"] == "done"
    assert result["verdict"]["identical"]
    expect(opened.locator("#verdict")).to_contain_text("Identical")
    expect(opened.locator("#speedup")).to_contain_text("×")
    for lane, key in (("plain", "plain"), ("speculative", "spec")):
        data, spans = result[key], shown(opened, lane)
        usage, stats = data["usage"], data["usage"]["speculation"]
        assert "".join(text for _, text in spans) == data["text"] != ""
        assert all(one != other for (one, _), (other, _) in itertools.pairwise(spans)), "merged by source"
        assert {source for source, _ in spans} <= set(data["sources"])
        assert legend(opened, lane) == data["sources"]
        assert sum(data["sources"].values()) == data["tokens"] == usage["completion_tokens"]
        assert data["tokens"] - data["sources"].get("target", 0) == data["accepted_tokens"]
        for counter in ("steps", "drafts", "draft_tokens", "accepted_tokens"):
            assert data[counter] == stats[counter], counter
    assert set(result["plain"]["sources"]) == {"target"}
    assert result["spec"]["draft_tokens"] > 0
    assert len({result[key]["usage"]["speculation"]["seed"] for key in ("plain", "spec")} | {result["seed"]}) == 1


def test_a_seed_and_a_method_are_sent_as_chosen(opened: Page) -> None:
    bodies: list[dict[str, Any]] = []
    opened.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    opened.click("#examples >> text=List")
    opened.fill("#seed", "17")
    opened.fill("#max-tokens", "8")
    opened.select_option("#method", "ngram")
    assert race(opened)["state"] == "done"
    assert [body["speculation"] for body in bodies] == [{"enabled": False}, {"method": "ngram"}]
    assert all(body["seed"] == 17 and body["stream"] and "messages" in body for body in bodies)


def test_the_keyboard_starts_and_stops(opened: Page) -> None:
    opened.route("**/v1/completions", lambda route: None)  # never answered
    opened.focus("#prompt")
    opened.keyboard.press("Control+Enter")
    expect(opened.locator("#verdict")).to_have_text("Running …")
    assert opened.evaluate("window.__race.state") == "running"
    expect(opened.locator("#stop")).to_be_enabled()
    opened.keyboard.press("Escape")
    expect(opened.locator("#verdict")).to_have_text("Stopped.")
    assert opened.evaluate("window.__race.state") == "idle"
    opened.focus("#start")
    opened.keyboard.press("Enter")
    expect(opened.locator("#stop")).to_be_focused()
    opened.keyboard.press("Enter")
    expect(opened.locator("#start")).to_be_focused()
    expect(opened.locator("#verdict")).to_have_text("Stopped.")


@pytest.mark.parametrize("width, height", [(390, 844), (320, 640)])
def test_a_phone_scrolls_in_one_direction_only(opened: Page, width: int, height: int) -> None:
    opened.set_viewport_size({"width": width, "height": height})
    opened.fill("#max-tokens", "40")
    assert race(opened)["state"] == "done"
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    tops = [opened.locator(f"#{lane}").bounding_box() for lane in ("plain", "speculative")]
    assert tops[0] is not None and tops[1] is not None
    assert tops[0]["y"] + tops[0]["height"] <= tops[1]["y"], "one below the other"


def test_an_error_within_the_stream_is_shown(opened: Page) -> None:
    failure = {"error": {"message": "The engine <b>failed</b>.", "type": "server_error", "param": None, "code": None}}
    answer_with(opened, chunk("a", finish="length") + DONE, chunk("a") + event(failure))
    assert race(opened)["state"] == "error"
    expect(opened.locator("#speculative .error")).to_have_text("The engine <b>failed</b>.")
    expect(opened.locator("#plain .error")).to_be_hidden()
    expect(opened.locator("#verdict")).to_have_text("No verdict.")


@pytest.mark.parametrize(
    "body, told",
    [
        (chunk("a"), "ended before it was complete"),
        (event("{"), "no JSON"),
    ],
)
def test_half_a_stream_is_no_answer(opened: Page, body: str, told: str) -> None:
    answer_with(opened, chunk("a") + DONE, body)
    assert race(opened)["state"] == "error"
    expect(opened.locator("#speculative .error")).to_contain_text(told)


def test_a_refusal_is_shown_with_what_to_do(page: Page, server_url: str) -> None:
    page.goto(server_url + "/")
    refusal = json.dumps({"error": {"message": "This key is not known.", "type": "authentication_error"}})
    answer_with(page, refusal, refusal, status=401, kind="application/json")
    assert race(page)["state"] == "error"
    expect(page.locator("#plain .error")).to_have_text("This key is not known. Enter the API key under Settings.")
    expect(page.locator("#api-key")).to_be_visible()


def test_text_that_looks_like_markup_is_text(opened: Page) -> None:
    hostile = "<img src=x onerror=alert(1)><script>window.hit = 1</script>&lt;b&gt; 🦉"
    answer_with(opened, chunk(hostile) + DONE, chunk(hostile[:9], "<i>") + chunk(hostile[9:], '"x') + DONE)
    assert race(opened)["verdict"]["identical"]
    for lane in ("plain", "speculative"):
        assert "".join(text for _, text in shown(opened, lane)) == hostile
    assert legend(opened, "speculative") == {"<i>": 1, '"x': 1}
    assert opened.locator("#lanes img, #lanes script, #lanes b, #lanes i").count() == 0
    assert opened.evaluate("window.hit") is None


def test_a_difference_is_told_and_placed(opened: Page) -> None:
    answer_with(opened, chunk("One owl 🦉 sat.\nIt") + DONE, chunk("One owl 🦉 sat!\nIt") + DONE)
    result = race(opened)
    assert (result["verdict"]["identical"], result["verdict"]["at"]) == (False, 13)
    expect(opened.locator("#verdict")).to_have_text("DIFFERENT at character 14.")
    expect(opened.locator("#difference mark")).to_have_text([".", "!"])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_parser_does_not_mind_where_a_stream_is_cut(opened: Page, size: int, newline: str) -> None:
    stream = "\ufeff: hello\ndata: é🦉\ndata:two\nid: 1\n\nevent: x\n\n\ndata\n\ndata:  a: b\nretry: 3\n\ndata: lost"
    sent = list(stream.replace("\n", newline).encode())
    got = opened.evaluate(
        """async ([bytes, size]) => {
            const parser = new (await import("/page/wire.js")).EventParser();
            const events = [];
            for (let at = 0; at < bytes.length; at += size) {
                events.push(...parser.push(new Uint8Array(bytes.slice(at, at + size))));
            }
            return events;
        }""",
        [sent, size],
    )
    assert got == ["é🦉\ntwo", "", " a: b"]


def test_bytes_that_are_no_text_are_refused(opened: Page) -> None:
    parse = 'async bytes => new (await import("/page/wire.js")).EventParser().push(new Uint8Array(bytes))'
    with pytest.raises(Exception, match="encoded data was not valid"):
        opened.evaluate(parse, [0x64, 0xFF, 0x0A])

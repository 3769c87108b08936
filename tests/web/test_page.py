"""The page at `/` of `rung serve`, as a user with a browser meets it."""

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from rung.serve.faults import broken, overloaded
from rung.serve.keys import KEYS_FILE, add_key
from tests.web.serving import HOSTILE, LABELS, browsing, serving, several_calls, small_systems

LOGIN = "locked my password again please"
BILLING = "the invoice with tax please"


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    return small_systems(tmp_path_factory.mktemp("systems"))


@pytest.fixture(scope="module")
def server(systems, tmp_path_factory):
    """A server of those, and of label Systems that make several calls."""
    made = several_calls(tmp_path_factory.mktemp("calls"), systems["prompt"])
    given = [f"{name}={path}" for name, path in {**systems, **made}.items()]
    with serving(given, tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture(scope="module")
def keyed(systems, tmp_path_factory):
    """A server that asks for keys, with a user's key and an administrator's."""
    home = tmp_path_factory.mktemp("keyed-home")
    user, admin = add_key(home / KEYS_FILE, "user"), add_key(home / KEYS_FILE, "admin", admin=True)
    with serving([f"topics={systems['head']}"], home) as address:
        yield address, user, admin


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture
def context(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context, server):
    page = context.new_page()
    page.goto(server)
    expect(page.locator("#try")).to_be_visible()
    return page


def ask(page, text, first="head", second="", limit="12"):
    page.select_option("#first", first)
    if second or page.locator("#second").is_enabled():
        page.select_option("#second", second)
    if page.locator("#limit").is_enabled():
        page.fill("#limit", limit)
    page.fill("#text", text)
    page.click("#ask")
    answers = page.locator(".answer:has([aria-busy=false])")
    expect(answers).to_have_count(2 if second else 1)
    return answers


def answered(server, request):
    """What the server answers to a request, past the page."""
    sent = urllib.request.Request(
        f"{server}/v1/chat/completions",
        json.dumps(request).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(sent, timeout=30) as response:
        return json.load(response)["choices"][0]


def test_what_is_served_is_listed_with_what_it_is_made_of(page, server):
    expect(page.locator("h1")).to_have_text("4 Systems and 1 base model are served.")
    expect(page.locator("#base")).to_have_text(f"{server}/v1")
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#requests")).to_have_text("0 running, 0 waiting")
    with urllib.request.urlopen(f"{server}/v1/systems") as response:
        known = json.load(response)["data"]
    cards = page.locator("#systems > li")
    expect(cards).to_have_count(5)
    for card, system in zip(cards.all(), known, strict=True):
        shown = card.inner_text()
        base = system["base"] or {"name": "head", "licence": "head"}
        for part in (system["name"], system["kind"], system["engine"], system["digest"], "loaded"):
            assert part in shown
        assert base["name"] in shown and base["licence"] in shown
    assert "mit" in cards.nth(1).inner_text() and "prompt" in cards.nth(1).inner_text()
    cards.nth(0).locator("summary").click()
    expect(cards.nth(0).locator("details")).to_contain_text("billing, delivery")


def test_a_label_appears_with_its_probability_and_the_others_beside_it(page, server):
    panel = ask(page, BILLING)
    request = {"model": "head", "messages": [{"role": "user", "content": BILLING}]}
    (token,) = answered(server, {**request, "logprobs": True, "top_logprobs": 3})["logprobs"]["content"]
    expect(panel.locator(".label bdi")).to_have_text("billing")
    shown = [bar.inner_text().split("\n") for bar in panel.locator(".bars li").all()]
    assert [name for name, _ in shown] == [option["token"] for option in token["top_logprobs"]]
    for (_, figure), option in zip(shown, token["top_logprobs"], strict=True):
        assert abs(float(figure) - 2.718281828 ** option["logprob"]) < 0.00051
    assert "ms" in panel.inner_text()


def test_what_is_written_is_streamed_whole_and_says_what_it_took(page, server):
    page.select_option("#first", "tiny")
    expect(page.locator("#limit")).to_have_value("256")
    panel = ask(page, BILLING, "tiny")
    request = {"model": "tiny", "messages": [{"role": "user", "content": BILLING}], "max_tokens": 12}
    assert panel.locator("pre").text_content() == answered(server, request)["message"]["content"]
    assert re.search(r"\d+ tokens read, \d+ written · \d+ ms", panel.inner_text())
    assert "had used up its tokens" in panel.inner_text()


def test_two_systems_answer_the_same_input_side_by_side(page, server):
    panels = ask(page, BILLING, "head", "prompt")
    request = {"model": "prompt", "messages": [{"role": "user", "content": BILLING}]}
    other = answered(server, request)["message"]["content"]
    expect(panels.locator(".label bdi")).to_have_text(["billing", other])
    words = "Both answer billing." if other == "billing" else f"They differ: billing and {other}."
    expect(page.locator("#difference")).to_have_text(words)
    rows = [[bar.inner_text() for bar in panel.locator(".bars bdi").all()] for panel in panels.all()]
    assert rows[0] == rows[1] and len(rows[0]) == 3


def test_a_label_that_several_calls_voted_on_stands_alone(page, server):
    panel = ask(page, BILLING, "voted")
    request = {"model": "voted", "messages": [{"role": "user", "content": BILLING}]}
    text = answered(server, request)["message"]["content"]
    assert text in LABELS
    expect(panel.locator(".label bdi")).to_have_text(text)
    assert "tokens read" in panel.inner_text()
    assert panel.locator(".bars, .chance, .bad, pre").count() == 0
    panels = ask(page, BILLING, "voted", "head")
    words = "Both answer billing." if text == "billing" else f"They differ: {text} and billing."
    expect(page.locator("#difference")).to_have_text(words)
    assert panels.nth(0).locator(".bars").count() == 0 and panels.nth(1).locator(".bars li").count() == 3


def test_a_label_after_one_line_of_reasoning_has_its_bars(page):
    panel = ask(page, BILLING, "thought")
    expect(panel.locator(".bars li")).to_have_count(3)
    expect(panel.locator(".chance")).to_have_count(1)


def test_an_answer_that_says_more_than_its_label_is_shown_as_it_was_written(page):
    written = {"message": {"content": "billing,\nas  it seems"}, "finish_reason": "stop"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(json={"choices": [written]}))
    panel = ask(page, BILLING, "voted")
    assert panel.locator("pre").text_content() == "billing,\nas  it seems"
    assert panel.locator(".label").count() == 0


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_program_for_a_label_of_several_calls_gets_its_answer(page, language):
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("curl isn't installed")
    page.select_option("#first", "voted")
    page.fill("#text", BILLING)
    page.check(f"[name=language][value={language}]", force=True)
    program = page.locator("#code").text_content()
    command = ["bash", "-c", program] if language == "curl" else [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True)
    said = json.loads(done.stdout)["choices"][0]["message"]["content"] if language == "curl" else done.stdout
    assert said.strip() in LABELS


def test_what_a_model_says_stays_text(page):
    title = page.title()
    panels = ask(page, f"{LOGIN} {HOSTILE}", "head", "tiny")
    expect(panels.nth(0).locator(".label bdi")).to_have_text(HOSTILE)
    expect(page.locator("#code")).to_contain_text("<img src=x onerror=")
    assert page.locator("img").count() == 0 and page.title() == title


@contextmanager
def recorder():
    """A server that keeps the bodies that it is sent, with their paths, and answers with a word or none."""
    kept = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.append((self.path, json.loads(body)))
            whole = json.dumps({"choices": [{"message": {"content": "billing"}}]}).encode()
            streamed = kept[-1][1].get("stream", False)
            answer = b"data: [DONE]\n\n" if streamed else whole
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("language", ["curl", "python"])
def test_a_copied_program_sends_exactly_what_the_page_sent(page, server, language):
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("curl isn't installed")
    sent = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    page.fill("#context", 'It\'s "about" $HOME')
    ask(page, "a 'quoted' \\ $(date) `date` line\nand ünï 🙂 </script> \x07", "tiny", "head")
    page.check(f"[name=language][value={language}]", force=True)
    program = page.locator("#code").text_content()
    assert server in program and len(sent) == 2
    with recorder() as (address, kept):
        program = program.replace(server, address)
        command = [sys.executable, "-c", program] if language == "python" else ["bash", "-c", program]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert [body for _, body in kept] == sent and b"billing" in done.stdout
    assert {path for path, _ in kept} == {"/v1/chat/completions"}


def test_a_key_is_asked_for_kept_by_the_tab_and_sent(context, keyed):
    address, user, _ = keyed
    page = context.new_page()
    page.goto(address)
    expect(page.locator("h1")).to_have_text("This server asks for an API key.")
    expect(page.get_by_label("A key that")).to_be_focused()
    expect(page.locator("#try")).to_be_hidden()
    page.keyboard.type("rung-wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-said")).to_have_text("this API key isn't known here, or has expired.")
    page.fill("#key", user)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("1 System is served.")
    expect(page.locator("#access")).to_be_hidden()
    expect(ask(page, BILLING, "topics").locator(".label bdi")).to_have_text("billing")
    assert user not in page.content() and "$RUNG_API_KEY" in page.locator("#code").text_content()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    with page.expect_download() as description:
        page.click("#openapi")
    assert "/v1/systems" in json.loads(description.value.path().read_text())["paths"]
    page.reload()
    expect(page.locator("#try")).to_be_visible()
    other = context.new_page()
    other.goto(address)
    expect(other.locator("#access")).to_be_visible()
    page.click("#forget")
    expect(page.locator("#access")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_server_without_systems_says_how_to_serve_one(context, keyed, systems):
    address, _, admin = keyed
    page = context.new_page()
    page.add_init_script(f"sessionStorage.setItem('rung-key', {json.dumps(admin)})")
    headers = {"Authorization": f"Bearer {admin}"}
    assert page.request.delete(f"{address}/v1/systems/topics", headers=headers).ok
    page.goto(address)
    expect(page.locator("h1")).to_have_text("No System is served.")
    expect(page.locator("#nothing")).to_contain_text("rung serve")
    expect(page.locator("#try")).to_be_hidden()
    again = {"system": str(systems["head"]), "name": "topics"}
    assert page.request.post(f"{address}/v1/systems", headers=headers, data=again).ok
    page.reload()
    expect(page.locator("h1")).to_have_text("1 System is served.")


def test_a_session_has_no_error_and_asks_no_other_host(context, server):
    page = context.new_page()
    told, hosts = [], set()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.clock.install()
    page.goto(server)
    expect(page.locator("#try")).to_be_visible()
    ask(page, LOGIN, "tiny", "head")
    ask(page, LOGIN, "head", "prompt")
    page.check("[name=language][value=python]", force=True)
    page.click("#copy")
    page.clock.run_for(30_000)
    expect(page.locator("#state")).to_have_text("ready")
    assert told == [] and hosts == {urlsplit(server).netloc}


@pytest.mark.parametrize(
    ("fault", "words", "again"),
    [
        (overloaded(5, 256), "Too many requests wait already.", "Ask again in 5 s."),
        (broken("the engine ended"), "The engine isn't there just now.", "Ask again in 1 s."),
    ],
    ids=["429", "503"],
)
def test_a_request_that_is_turned_away_is_told_in_words_with_when_to_ask_again(page, fault, words, again):
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=fault.status, json=fault.body(), headers=fault.headers),
    )
    panel = ask(page, LOGIN)
    for part in (words, again, fault.message):
        expect(panel).to_contain_text(part)


def test_a_server_that_is_gone_is_looked_for_until_it_answers(context, server):
    page = context.new_page()
    page.clock.install()
    page.goto(server)
    expect(page.locator("#try")).to_be_visible()
    context.set_offline(True)
    expect(ask(page, LOGIN)).to_contain_text("No answer.")
    expect(page.locator("#gone")).to_contain_text("doesn't answer")
    expect(page.locator("#state")).to_have_text("no answer")
    context.set_offline(False)
    page.clock.run_for(4000)
    expect(page.locator("#gone")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("ready")


def test_an_answer_that_is_stopped_keeps_what_came(page):
    page.select_option("#first", "tiny")
    page.fill("#text", LOGIN)
    # The model writes too little to be stopped by hand, so the stream is one that never ends.
    page.route("**/v1/chat/completions", lambda route: None)
    page.click("#ask")
    page.click("#stop")
    expect(page.locator(".answer")).to_contain_text("Stopped.")
    expect(page.locator("#ask")).to_be_focused()


def test_the_page_works_by_keyboard_alone(page):
    seen = []
    while "ask" not in seen and len(seen) < 30:
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        if seen[-1] == "text":
            page.keyboard.type(BILLING)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"no focus is seen on {seen[-1]!r}"
    assert seen == ["first", "second", "text", "context", "ask"]
    page.keyboard.press("Enter")
    expect(page.locator(".answer .label bdi")).to_have_text("billing")
    page.focus("#text")
    page.keyboard.type(" refund")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_have_text("head: billing")
    page.focus("[name=language]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#code")).to_contain_text("from openai import OpenAI")


def test_nothing_is_wider_than_the_window(page):
    ask(page, "x" * 300, "tiny", "prompt", limit="256")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_json_is_laid_out_letter_for_letter(page):
    text = '{"a":[1,{"b":12345678901234567890.10,"c":"{\\"x\\": [1, 2]}, \\\\"}],"d":{},"e":[ ],"f":true}'
    shown = page.evaluate("async (text) => (await import('/static/words.js')).indented(text)", text)
    assert '"b": 12345678901234567890.10,' in shown
    assert shown == json.dumps(json.loads(text), indent=2).replace(
        "1.2345678901234567e+19", "12345678901234567890.10"
    )
    cut = page.evaluate("async (text) => (await import('/static/words.js')).indented(text)", text[:40])
    assert shown.startswith(cut)


def test_what_two_texts_do_not_share_is_found(page):
    script = """async ([one, other]) => {
        const { lacking, parts } = await import('/static/words.js');
        const texts = [parts(one), parts(other)];
        const words = (own, side) => [...own].map((at) => texts[side][at]).filter((part) => part.trim());
        return lacking(...texts).map(words);
    }"""
    assert page.evaluate(script, ["the cat sat, here", "the dog sat here now"]) == [
        ["cat", ","],
        ["dog", "now"],
    ]
    assert page.evaluate(script, ["", "new"]) == [[], ["new"]]
    assert page.evaluate(script, ["the same", "the same"]) == [[], []]

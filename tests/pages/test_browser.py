"""Pages in a real browser: Chromium, driven by Playwright (`pip install -e '.[browser]'`)."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
from images import SMALL, small_config, write_images

import pml_slade
from pml_slade.pages.report import report_page
from pml_slade.pages.sheet import search_page
from pml_slade.running.data import build_splits
from pml_slade.running.loading import load_config
from pml_slade.running.run import Run
from pml_slade.serving import LARGEST_UPLOAD, build_app, build_server, open_port

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.once, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

ROOT = Path(__file__).parents[2]
SITE = {"home": "index.html", "tutorial": "tutorial/index.html", "settings": "settings/index.html"}
WINDOWS = {"desktop": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (390, 844, "dark")}
CONTRAST = """() => {
  const light = (c) => { const v = c / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
  const bright = (rgb) => 0.2126 * light(rgb[0]) + 0.7152 * light(rgb[1]) + 0.0722 * light(rgb[2]);
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const low = [];
  for (const e of document.querySelectorAll("h1,h2,h3,p,td,th,a,summary,figcaption,label,li,dt,dd,footer")) {
    if (!e.textContent.trim() || e.className === "skip" || !e.getClientRects().length) continue;
    let under = e, back = [0, 0, 0, 0];
    while (under && !(back[3] === undefined || back[3] > 0)) {
      back = numbers(getComputedStyle(under).backgroundColor); under = under.parentElement;
    }
    const [a, b] = [bright(numbers(getComputedStyle(e).color)), bright(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""
"""Texts whose contrast with what is behind them is below 4.5, the bound of WCAG 2 AA."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The report of a small run, and what a search by its model found."""
    folder = tmp_path_factory.mktemp("pages")
    folders = write_images(folder / "images")
    Run(small_config(folders, folder / "run", "rows=[control,slade]"), progress=False).run()
    return write_pages(folder, folders["unlabeled"], folders["test"])


def write_pages(folder, queries, searched):
    """Pages of a run in folder/run: its report, and what is found for twelve queries."""
    model = pml_slade.load(folder / "run", "cpu", workers=0)
    opened = model.open(sorted(queries.rglob("*.*"))[:12])
    pages = {
        "report": report_page([folder / "run"], "cpu", 0),
        "search": search_page(opened, model.search(opened, searched, k=10), model.mode),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture(scope="module", params=["glyphs", "birds"])
def of_real_images(files, few_letters, request, tmp_path_factory):
    """Names of such pages of letters, and of photographs where PHOTOS names a folder that has birds."""
    folder = tmp_path_factory.mktemp(request.param)
    make = {"glyphs": run_on_letters, "birds": run_on_birds}[request.param]
    pages = write_pages(folder, *make(folder))
    files.update({f"{name} of {request.param}": file for name, file in pages.items()})
    return [f"{name} of {request.param}" for name in pages]


def run_on_letters(folder):
    config = load_config("glyphs", [*SMALL, "data.image_size=28", f"output={folder / 'run'}"])
    Run(config, progress=False).run()
    letters = build_splits(config).test
    for i in range(60):
        file = folder / "letters" / f"{letters.classes[letters.labels[i]].split('/')[0]}-{i}.png"
        file.parent.mkdir(exist_ok=True)
        letters[i][0].save(file)
    return folder / "letters", folder / "letters"


def run_on_birds(folder):
    photos = os.environ.get("PHOTOS") or pytest.skip("PHOTOS names no folder of photographs")
    classes = sorted((Path(photos) / "birds").iterdir())
    for part, chosen in {"labeled": classes[:8], "unlabeled": classes[8:14], "test": classes[14:20]}.items():
        for one in chosen:
            (folder / part).mkdir(exist_ok=True)
            (folder / part / one.name).symlink_to(one.resolve())
    folders = {part: folder / part for part in ("labeled", "unlabeled", "test")}
    more = ("rows=[control,slade]", "data.mode=RGB", "data.image_size=64", "data.transform=photo")
    Run(small_config(folders, folder / "run", *more), progress=False).run()
    return classes[8], folders["test"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(files):
    """Address of the page that searches by image, over the pool of the small run."""
    pytest.importorskip("flask", reason="needs flask")
    folder = files["report"].parent
    model = pml_slade.load(folder / "run", "cpu", workers=0)
    app = build_app(model, model.index(folder / "images" / "unlabeled"))
    with open_port(0) as opened:
        server = build_server(app, opened)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{server.host}:{server.port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the documentation as pages."""
    pytest.importorskip("mkdocs", reason="needs mkdocs")
    pytest.importorskip("material", reason="needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture
def opened(browser, files, request):
    """Opens a page in a window; fails on errors, and on whatever is fetched from elsewhere."""
    contexts, troubles = [], []

    def address_of(name):
        if name == "serve":
            return request.getfixturevalue("served")
        if name in SITE:
            return (request.getfixturevalue("site") / SITE[name]).as_uri()
        return files[name].as_uri()

    def open_page(window="desktop", name="report"):
        address = address_of(name)
        allowed = (address, "blob:", "data:") if name == "serve" else ("file:", "data:")
        width, height, scheme = WINDOWS[window]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda r: troubles.append(r.url) if not r.url.startswith(allowed) else None,
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.mark.parametrize("name", ["report", "search", "serve"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_page_opens_without_an_error_and_fits_its_window(opened, window, name, tmp_path):
    page = opened(window, name)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(251, 251, 249)") == (WINDOWS[window][2] == "light")
    file = shots(tmp_path) / f"{name}, {window}.png"
    page.screenshot(path=file, full_page=True)
    assert file.stat().st_size > 10_000


@pytest.mark.parametrize("window", WINDOWS)
def test_pages_of_letters_and_photographs_open_and_fit(opened, of_real_images, window, tmp_path):
    for name in of_real_images:
        page = opened(window, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".pic").count() > 100
        page.screenshot(path=shots(tmp_path) / f"{name}, {window}.png", full_page=True)


def shots(folder):
    """Where screenshots go that a person looks at: SCREENSHOTS, where it is set."""
    return Path(os.environ.get("SCREENSHOTS", folder))


@pytest.mark.parametrize("name", ["report", "search", "serve", *SITE])
@pytest.mark.parametrize("window", ["desktop", "dark"])
def test_axe_finds_no_fault_of_accessibility(opened, window, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = opened(window, name)
    assert page.locator("[role=dialog]:not([aria-label])").count() == 0  # axe passes over hidden ones
    found = axe.Axe().run(page, options={"preload": False}).response
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []
    assert len(found["passes"]) > 15


def test_a_search_box_leaves_what_matches(opened):
    page = opened()
    cards = page.locator("#queries details")
    assert cards.count() >= 8
    page.fill("#find-query", "test 02")
    texts = [
        cards.nth(i).get_attribute("data-text") for i in range(cards.count()) if cards.nth(i).is_visible()
    ]
    assert set(texts) == {"test 02"}
    assert not page.is_visible("#queries-none")
    page.fill("#find-query", "nothing like it")
    assert page.is_visible("#queries-none")
    page.fill("#find-setting", "student.clustering")
    shown = page.locator("#setting-rows tr:visible td:first-child").all_inner_texts()
    assert shown == ["student.clustering"]


def test_the_queries_of_a_search_are_found_by_name(opened):
    page = opened(name="search")
    assert page.locator("#queries section:visible").count() == 12
    assert page.locator("#queries figure:visible").count() == 12 * 11
    page.fill("[data-filter=queries]", "004.bmp")
    assert page.locator("#queries section:visible h2").all_inner_texts()[0].endswith("004.bmp")
    assert page.locator("#queries section:visible").count() == 1


def test_a_heading_sorts_its_table_both_ways_and_by_keyboard(opened):
    page = opened()
    table = page.locator("#result-table")
    heading = table.get_by_role("button", name="MAP@R", exact=True)
    column = "#result-table tbody td:nth-child(4)"
    heading.focus()
    page.keyboard.press("Enter")
    values = [float(text) for text in page.locator(column).all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
    page.keyboard.press("Enter")
    assert [float(text) for text in page.locator(column).all_inner_texts()] == values[::-1]


def test_queries_are_sorted_by_a_choice(opened):
    page = opened()

    def gains():
        cards = page.locator("#queries details")
        return [float(cards.nth(i).get_attribute("data-gain")) for i in range(cards.count())]

    assert gains() == sorted(gains(), reverse=True)
    page.select_option("#sort-queries", "gain up")
    assert gains() == sorted(gains())


def test_a_query_is_opened_and_shows_before_beside_after(opened):
    page = opened()
    query = page.locator("#queries details").nth(5)
    assert not query.locator(".strip").first.is_visible()
    query.locator("summary").click()
    before, after = (query.locator(".beside > div").nth(i) for i in (0, 1))
    assert before.locator("p").first.inner_text().startswith("Teacher: ")
    assert after.locator("p").first.inner_text().startswith("SLADE: ")
    assert before.locator("figure").count() == after.locator("figure").count() == 8
    left, right = before.bounding_box(), after.bounding_box()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    query.locator("summary").focus()
    page.keyboard.press("Enter")
    assert not before.is_visible()
    page.click("[data-open=queries]")
    assert page.locator("#queries details:not([open])").count() == 0
    page.click("[data-open=queries]")
    assert page.locator("#queries details[open]").count() == 0


def test_a_point_of_the_map_shows_its_image(opened):
    page = opened()
    point = page.locator("#map circle").nth(3)
    assert not page.is_visible("#shown")
    point.hover(force=True)
    assert page.is_visible("#shown")
    assert page.inner_text("#shown").startswith("test ")
    page.mouse.move(5, 5)
    assert not page.is_visible("#shown")
    page.locator("#map svg").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#map circle").first.get_attribute("data-text")
    assert page.inner_text("#shown").strip() == first
    page.fill("#map-find", "test 01")
    assert page.locator("#map circle:not(.dim)").count() == 8


DROP = """(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


def test_a_picture_that_is_dropped_finds_its_neighbours(opened, files):
    page = opened(name="serve")
    query = sorted((files["report"].parent / "images" / "unlabeled").glob("*.png"))[0]
    page.evaluate(DROP, list(query.read_bytes()))
    page.wait_for_selector("#matches button")
    assert page.inner_text("#status") == "24 images found."
    first = page.locator("#matches button").first
    assert first.inner_text() == f"1.000 {query.name}"
    page.wait_for_function("document.querySelector('#matches img').naturalWidth > 0")
    first.press("Enter")  # it is searched with, and does not find itself
    page.wait_for_function(f"!document.querySelector('#matches').textContent.includes('{query.name}')")
    assert page.locator("#matches button").count() == 24


def test_a_file_that_is_no_image_or_too_large_is_told(opened, tmp_path, served):
    page = opened(name="serve")
    (tmp_path / "large.png").write_bytes(bytes(LARGEST_UPLOAD + 1))
    page.set_input_files("#file", tmp_path / "large.png")
    assert page.inner_text("#status") == "The file is larger than 20 MB."
    page.evaluate("latest = 0; window.fetch = async () => ({ json: async () => ({ error: 'This file' }) })")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
    page.wait_for_function("document.querySelector('#status').textContent === 'This file'")
    assert not page.is_visible("#found")


def test_the_keyboard_reaches_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"A", "BUTTON", "SUMMARY", "find-query", "find-class", "find-setting", "map-find"} <= reached


def test_every_picture_and_field_has_a_name(opened):
    page = opened()
    unnamed = """() => [...document.querySelectorAll('[role=img], svg[role], input, select, [role=region]')]
        .filter((e) => !(e.getAttribute('aria-label') || e.closest('label'))).map((e) => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("[...document.querySelectorAll('[id]')].length") == page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size"
    )
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((e) => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))

"""The page, clicked through in a real browser: without network, with the keyboard, on a desktop and on a phone."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from tests.conftest import DEMO, PICTURES
from tests.serving.browsing import Open, keep, painted
from tests.serving.conftest import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser, an extra of the tests")
expect = sync_api.expect

Make = Callable[..., Service]
CAT, SHIP = PICTURES / "cat.jpg", PICTURES / "ship.jpg"


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.listen()


def test_a_picture_that_is_chosen_is_answered_with_bars_and_a_map(open_page: Open, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#model")).to_contain_text("resnet20-cifar10 (fp32, cpu) knows airplane, automobile")
    page.set_input_files("#files", [CAT, SHIP])
    expect(page.locator(".times:visible")).to_have_count(2)
    card = page.get_by_role("article", name="cat.jpg")
    expect(card.locator(".class")).to_have_count(5)
    rows = card.get_by_role("button")
    expect(rows.first).to_have_text("cat99.8 %")
    widths = [float(row.evaluate("row => parseFloat(row.style.getPropertyValue('--share'))")) for row in rows.all()]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == pytest.approx(99.8, abs=0.1)
    expect(rows.first).to_have_attribute("aria-pressed", "true")
    first = painted(card)
    assert first > 1000
    rows.nth(1).click()
    expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(rows.first).to_have_attribute("aria-pressed", "false")
    expect(card.locator(".legend-text")).to_contain_text("dog")
    assert painted(card) != first
    rows.nth(1).click()
    assert painted(card) == 0
    expect(card.locator(".times")).to_have_text(re.compile(r"\d+ ms in all: waiting .* network \d"))
    expect(page.locator("[role=status]")).to_contain_text("%")
    rows.first.click()
    keep(page, "desktop")


def test_the_default_model_answers_with_bars_and_a_map(open_page: Open, make_service: Make) -> None:
    page = open_page(make_service(model=zoo.DEFAULT).listen())
    expect(page.locator("#model")).to_contain_text("resnet18-tinyimagenet (int8, cpu) knows 200 classes")
    page.set_input_files("#files", [DEMO / "coffee.jpg", DEMO / "cat.jpg"])
    card = page.get_by_role("article", name="coffee.jpg")
    expect(card.get_by_role("button").first).to_contain_text("espresso")
    expect(page.locator(".times:visible")).to_have_count(2)
    assert painted(card) > 1000
    keep(page, "default")


def test_pictures_can_be_dropped_and_pasted(open_page: Open, url: str) -> None:
    page = open_page(url)
    content = base64.b64encode(CAT.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """content => {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "given.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.get_by_role("article", name="given.jpg").locator(".class").first).to_contain_text("cat")
    page.evaluate(
        "transfer => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))",
        transfer,
    )
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.locator(".times:visible")).to_have_count(2)


def test_it_can_be_used_with_the_keyboard_alone(open_page: Open, url: str) -> None:
    page = open_page(url)
    # The browser is told to hand over its file dialogs when the first listener comes, and nobody waits until it does.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(CAT)
    card = page.get_by_role("article", name="cat.jpg")
    expect(card.locator(".class").first).to_contain_text("cat")
    page.keyboard.press("Tab")
    expect(page.get_by_label("once, and show where")).to_be_focused()
    page.keyboard.press("Tab")
    expect(card.get_by_role("button").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(card.get_by_role("button").nth(1)).to_have_attribute("aria-pressed", "true")


def test_a_screen_reader_finds_names_for_everything(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.set_input_files("#files", CAT)
    expect(page.locator(".times:visible")).to_have_count(1)
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "What is in this picture?" [level=1]',
        'button "Choose pictures',
        'radio "once, and show where" [checked]',
        'article "cat.jpg"',
        'img "cat.jpg"',
        'button "cat 99.8 %" [pressed]',
        'region "Answers"',
        'status: "cat.jpg: cat, 99.8 %"',
    ):
        assert line in tree, f"{line} is not in\n{tree}"
    assert page.locator("html").get_attribute("lang") == "en"


def test_ten_crops_are_answered_without_a_map(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.get_by_label("ten times").check()
    page.set_input_files("#files", CAT)
    card = page.get_by_role("article", name="cat.jpg")
    expect(card.locator(".class").first).to_contain_text("cat")
    expect(card.get_by_role("button")).to_have_count(0)
    expect(card.locator(".legend")).to_be_hidden()


def test_what_is_no_picture_is_said_and_harms_no_other(open_page: Open, url: str, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    page = open_page(url)
    page.set_input_files("#files", [tmp_path / "notes.jpg", CAT])
    bad = page.get_by_role("article", name="notes.jpg")
    expect(bad.locator(".error")).to_contain_text("unsupported: text")
    expect(bad.locator(".no-preview")).to_be_visible()
    expect(page.get_by_role("article", name="cat.jpg").locator(".class").first).to_contain_text("cat")


def test_a_name_that_is_html_stays_text(open_page: Open, url: str, tmp_path: Path) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    shutil.copy(CAT, odd)
    page = open_page(url)
    page.set_input_files("#files", odd)
    expect(page.locator(".name")).to_have_text(odd.name)
    expect(page.locator(".times:visible")).to_have_count(1)


@pytest.fixture(scope="module")
def locked(make_service: Make) -> str:
    return make_service(keys=("secret", "schlüssel")).listen()


def test_a_key_is_asked_for_and_used(open_page: Open, locked: str) -> None:
    page = open_page(locked)
    expect(page.locator("#model")).to_have_text("The service needs its API key before it answers.")
    page.set_input_files("#files", CAT)
    field, status = page.get_by_label("This service needs its API key"), page.locator("[role=status]")
    expect(field).to_be_visible()
    field.fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator(".message")).to_contain_text("Waiting for the API key")
    expect(status).to_contain_text("This key is not right")
    field.fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".class").first).to_contain_text("cat")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#model")).to_contain_text("knows")
    expect(status).to_have_text("cat.jpg: cat, 99.8 %")


@pytest.mark.parametrize("right", ["secret", "schlüssel"])
def test_a_wrong_key_is_said_until_it_is_right(open_page: Open, locked: str, right: str) -> None:
    page = open_page(locked)
    field, status = page.get_by_label("This service needs its API key"), page.locator("[role=status]")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#key-error")).to_be_hidden()
    status.evaluate(
        """status => {
            window.said = [];
            new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true });
        }"""
    )
    for number, wrong in enumerate(("wrong", "ключ")):
        field.fill(wrong)
        page.keyboard.press("Enter")
        page.wait_for_function("count => said.filter(Boolean).length > count", arg=number)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description("This key is not right.")
        expect(field).to_be_focused()
        expect(page.locator("#key-error")).to_be_visible()
        expect(page.locator("#model")).to_contain_text("needs its API key")
    keep(page, "wrong-key")
    field.fill(right)
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_contain_text("knows")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#key")).not_to_have_attribute("aria-invalid", "true")
    assert page.evaluate("said") == ["This key is not right.", "", "This key is not right.", ""]


def test_an_answer_to_an_earlier_key_says_nothing_of_the_next(open_page: Open, locked: str) -> None:
    page = open_page(locked)
    field = page.get_by_label("This service needs its API key")
    expect(field).to_be_visible()
    held: list[Any] = []
    page.route("**/classify?*", lambda route: held.append(route) if not held else route.continue_())
    page.set_input_files("#files", CAT)
    expect(page.locator(".message")).to_contain_text("Looking")
    field.fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_contain_text("knows")
    held[0].continue_()
    expect(page.locator(".class").first).to_contain_text("cat")
    expect(page.locator("#key-form")).to_be_hidden()


def test_a_map_is_drawn_when_the_model_is_known_after_the_answer(open_page: Open, url: str) -> None:
    page = open_page(url)
    held: list[Any] = []
    page.route("**/model", lambda route: held.append(route))
    page.reload()
    page.set_input_files("#files", CAT)
    card = page.get_by_role("article", name="cat.jpg")
    expect(card.get_by_role("button").first).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("document.querySelector('article img').complete")
    assert painted(card) == 0
    held[0].continue_()
    expect(page.locator("#model")).to_contain_text("knows")
    assert painted(card) > 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page: Open, url: str, tmp_path: Path, scheme: str) -> None:
    long = tmp_path / ("a_rather_long_name_without_any_space_" * 4 + ".jpg")
    shutil.copy(SHIP, long)
    page = open_page(url, 360, 740, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme=scheme)
    page.set_input_files("#files", [CAT, long])
    expect(page.locator(".times:visible")).to_have_count(2)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    for row in page.locator("button.class").all():
        assert row.bounding_box()["height"] >= 44
    page.get_by_role("article", name="cat.jpg").get_by_role("button").nth(1).tap()
    keep(page, f"phone-{scheme}")


def test_while_there_is_no_service_it_says_so(open_page: Open, make_service: Make) -> None:
    cold = make_service(start=False)
    page = open_page(cold.listen())
    expect(page.locator("#model")).to_contain_text("not ready")
    page.set_input_files("#files", CAT)
    expect(page.locator(".message")).to_contain_text("busy; trying again")
    cold.start()
    expect(page.locator(".class").first).to_contain_text("cat")
    expect(page.locator("#model")).to_contain_text("knows")

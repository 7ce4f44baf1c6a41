"""A real browser drives the web page: upload, ask, stream, stop, next turn, reload, resume, errors, phone.

usage: check_page.py URL PICTURE [SCREENSHOT_DIR]

Chromium from Debian, through its own chromedriver.  Each step waits for what a user would see, never for a time.
With SCREENSHOT_DIR it leaves pictures of the page: light, dark, phone.
"""
import os
import sys

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

URL, PICTURE = sys.argv[1], os.path.abspath(sys.argv[2])
SHOTS = sys.argv[3] if len(sys.argv) > 3 else None
PATIENCE_S = 60


def browser(width, height, dark=False):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    scheme = "dark" if dark else "light"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    driver.get(URL)
    return driver


class Page:
    def __init__(self, driver):
        self.d = driver
        self.until(lambda: self.all("#model option"), "the list of models")

    def until(self, condition, what):
        # The page may draw anew between finding an element and looking at it.
        wait = WebDriverWait(self.d, PATIENCE_S, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
        wait.until(lambda _: condition(), f"waited for {what}")

    def one(self, css):
        return self.d.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        return self.d.find_elements(By.CSS_SELECTOR, css)

    def answers(self):
        return self.all("#turns .assistant")

    def texts(self):
        return self.d.execute_script("return [...document.querySelectorAll('#turns .assistant .text')].map(e => e.innerText)")

    def text(self, turn):
        return turn.find_element(By.CSS_SELECTOR, ".text").text

    def set(self, name, value):
        self.d.execute_script(
            "const e = document.getElementById(arguments[0]); if (e.type === 'checkbox') e.checked = arguments[1]; else e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}));", name, value)

    def attach(self, path):
        before = len(self.all("#pictures li"))
        self.one("#file").send_keys(path)
        self.until(lambda: len(self.all("#pictures li")) == before + 1, "the picture's thumbnail")

    def ask(self, text):
        self.one("#question").send_keys(text, Keys.ENTER)

    def answered(self, n):
        self.until(lambda: len(self.answers()) == n and not self.all("#turns .busy"), f"answer {n}")
        return self.answers()[-1]

    def shot(self, name):
        if SHOTS:
            self.d.save_screenshot(os.path.join(SHOTS, name + ".png"))


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def conversation(page):
    page.set("sample", False)
    page.set("max_tokens", 48)
    page.attach(PICTURE)
    page.ask("What is in this picture?")
    page.until(lambda: len(page.answers()) == 1 and page.text(page.answers()[0]), "the first words")
    first = page.text(page.answered(1))
    check(first, "a picture is uploaded, asked about and answered")
    fall = page.answers()[0].find_element(By.CSS_SELECTOR, ".fall")
    fall.find_element(By.CSS_SELECTOR, "summary").click()
    stages = [r.text for r in fall.find_elements(By.CSS_SELECTOR, "tr td:first-child")]
    check({s.split()[0] for s in stages} >= {"preprocess", "vit", "abstractor", "decoder"}, f"the waterfall shows each stage: {stages}")
    page.shot("light")

    page.ask("And what colour is it?")
    second = page.answered(2)
    check(page.text(second), "a next turn is answered")
    check(len(page.all("#turns .user")) == 2, "both questions are shown")
    return page.texts()


def reload(page, texts):
    page.d.refresh()
    page.until(lambda: page.all("#model option"), "the page after a reload")
    page.until(lambda: len(page.answers()) == len(texts), "the conversation after a reload")
    check(page.texts() == texts, "a reload brings the conversation back")
    page.until(lambda: page.d.execute_script("return [...document.querySelectorAll('#turns img')].every(i => i.complete && i.naturalWidth > 0)"), "its picture")
    check(page.all("#turns .user img"), "with its picture")
    page.ask("Say more.")
    page.answered(len(texts) + 1)
    page.one("#new").click()
    page.until(lambda: not page.answers(), "an empty page")
    check(page.all("#list .open"), "the conversation is listed")
    page.all("#list .open")[0].click()
    page.until(lambda: len(page.answers()) == len(texts) + 1, "the resumed conversation")
    check(page.texts()[:len(texts)] == texts, "a listed conversation is resumed")


def another(page, kept):
    n = len(page.answers())
    page.answers()[-1].find_element(By.XPATH, ".//button[text()='Another answer']").click()
    page.until(lambda: len(page.answers()) == n and not page.all("#turns .busy"), "another answer")
    check(page.text(page.answers()[-1]) and not page.all("#turns .error"), "another answer to the last question")
    texts = page.texts()
    if kept:
        page.d.refresh()
        page.until(lambda: page.texts() == texts, "the conversation with the other answer after a reload")
        check(len(page.all("#turns .user")) == len(texts), "a reload brings the other answer, and no question twice")


def stop(page):
    page.one("#new").click()
    page.set("max_tokens", 1024)
    page.ask("Tell a very long story.")
    page.until(lambda: page.answers() and page.text(page.answers()[-1]), "the first words of a long answer")
    page.d.execute_script("document.getElementById('stop').click()")
    turn = page.answered(1)
    check("stopped" in turn.text or "longest answer" in turn.text, "stop ends an answer: " + turn.text[-60:].replace("\n", " "))
    page.set("max_tokens", 16)
    page.ask("Go on.")
    page.until(lambda: len(page.answers()) == 2 and not page.all("#turns .busy"), "an answer after a stop")
    check(page.text(page.answers()[-1]) and not page.all("#turns .error"), "the next question after a stop is answered")


def errors(page, rubbish):
    page.one("#new").click()
    page.attach(rubbish)
    page.ask("What is this?")
    page.until(lambda: page.all("#turns .error"), "an error")
    said = page.all("#turns .error")[0].text
    check(len(said) > 20 and "undefined" not in said, f"a broken picture is refused in words: {said}")
    page.shot("error")


def main():
    if SHOTS:
        os.makedirs(SHOTS, exist_ok=True)
    rubbish = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"tyto-rubbish-{os.getpid()}.jpg")
    with open(rubbish, "wb") as f:
        f.write(open(PICTURE, "rb").read()[:2000])
    driver = browser(1280, 860)
    page = Page(driver)
    try:
        texts = conversation(page)
        note = page.one("#list-note").text
        kept = "keeps no conversations" not in note
        if not kept:
            print("skipped: reload and resume (no store behind this gateway)")
        else:
            reload(page, texts)
        another(page, kept)
        stop(page)
        errors(page, rubbish)
        # Chromium logs every refused request; those are checked above.
        bad = [e for e in driver.get_log("browser") if e["level"] == "SEVERE" and "the server responded with a status of 4" not in e["message"]]
        check(not bad, f"the browser's console has no errors {bad or ''}")
    except Exception:
        page.shot("failure")
        print(driver.get_log("browser"), file=sys.stderr)
        raise
    finally:
        driver.quit()
        os.unlink(rubbish)
    for name, width, height, dark in (("dark", 1280, 860, True), ("phone", 390, 844, False), ("phone-dark", 390, 844, True)):
        driver = browser(width, height, dark)
        try:
            page = Page(driver)
            page.set("sample", False)
            page.set("max_tokens", 32)
            page.attach(PICTURE)
            page.ask("What is in this picture?")
            page.answered(1)
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            check(wide <= width, f"{name}: nothing is wider than the window ({wide} of {width})")
            page.shot(name)
        finally:
            driver.quit()


main()

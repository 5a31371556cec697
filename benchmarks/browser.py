"""A headless Chromium that opens pages, waits until they can be used, and takes screenshots."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

_POLL = 0.02


class Browser:
    """A new browser profile with an empty cache. Needs `chromium` and `chromedriver` on the path (Debian: chromium, chromium-driver)."""

    def __init__(self, *, width: int = 1500, height: int = 1000) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            raise SystemExit("chromium and chromedriver are needed (Debian: apt install chromium chromium-driver)")
        options = ChromeOptions()
        options.binary_location = chromium
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
        ):
            options.add_argument(argument)
        self._driver = Chrome(options=options, service=Service(driver))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._driver.quit()

    def open(self, url: str) -> None:
        self._driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def run_async(self, script: str, *, seconds: float = 90.0) -> Any:
        """What the script gives its last argument, a callback."""
        self._driver.set_script_timeout(seconds)
        return self._driver.execute_async_script(script)

    def emulate(self, *, prefers_color_scheme: str) -> None:
        """`light` or `dark`, for the pages that are opened from now on."""
        features = [{"name": "prefers-color-scheme", "value": prefers_color_scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int) -> None:
        """The page's own size; a window cannot be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def wait(self, condition: str, *, in_frame: bool = False, seconds: float = 90.0) -> float:
        """Seconds until the JavaScript expression `condition` is true, in the page or its last frame, and the page is idle."""
        began = time.monotonic()
        while not (self._holds_in_frame(condition) if in_frame else self.run(f"return Boolean({condition})")):
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{self._driver.current_url} does not fulfil {condition}: {self.text()[:500]}")
            time.sleep(_POLL)
        self._driver.set_script_timeout(seconds)
        self._driver.execute_async_script("requestIdleCallback(arguments[arguments.length - 1])")
        return time.monotonic() - began

    def _holds_in_frame(self, condition: str) -> bool:
        frames = self._driver.find_elements("css selector", "iframe")
        if not frames:
            return False
        try:
            self._driver.switch_to.frame(frames[-1])
            return bool(self.run(f"return Boolean({condition})"))
        except WebDriverException:
            # The page has just replaced the frame.
            return False
        finally:
            self._driver.switch_to.default_content()

    def text(self) -> str:
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def click(self, xpath: str) -> None:
        """Clicks with the mouse, so that the element must be visible."""
        self._driver.find_element("xpath", xpath).click()

    def type(self, xpath: str, text: str) -> None:
        """Replaces the field's text."""
        field = self._driver.find_element("xpath", xpath)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def escape(self) -> None:
        self._driver.switch_to.active_element.send_keys(Keys.ESCAPE)

    def screenshot(self, file: Path) -> None:
        """A PNG with 256 colours, which is a third of the bytes."""
        file.parent.mkdir(parents=True, exist_ok=True)
        shot = Image.open(io.BytesIO(self._driver.get_screenshot_as_png())).convert("RGB")
        _with_few_colours(shot).save(file, optimize=True)


def _with_few_colours(shot: Image.Image) -> Image.Image:
    """The nearest of 256 colours: the 128 most frequent, so that grounds stay as they are, and 128 that are far apart, so that small marks
    of different colours do not become alike, as they would by Pillow's median cut."""
    pixels = np.asarray(shot).astype(np.int32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    found, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    spread = shot.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette() or []
    palette = np.concatenate([colours[np.argsort(-counts)[:128]], np.reshape(spread[: 3 * 128], (-1, 3))])
    # The square of the distance, but for what is the same for all of the palette.
    nearest = (np.square(palette).sum(1) - 2 * colours @ palette.T).argmin(1)
    small = Image.fromarray(nearest[places].reshape(packed.shape).astype(np.uint8), "P")
    small.putpalette(palette.astype(np.uint8).tobytes())
    return small

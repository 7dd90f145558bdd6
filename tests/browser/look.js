// Measures of what is seen. Each returns what is wrong, in words, so that an empty list is a good page.

/** A page that can be pushed sideways, elements that stand out of the screen, and texts that stand into a panel's padding. */
export async function overflow(page) {
  return page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const wide = document.documentElement.scrollWidth - width;
    const out = [...document.querySelectorAll("body *")].filter((element) => {
      if (element.closest(".unseen, .skip, [hidden]") !== null) return false;
      const { left, right } = element.getBoundingClientRect();
      return right > width + 0.5 || left < -0.5;
    });
    const texts = [...document.querySelectorAll(".panel *")].filter((element) => {
      const spoken = [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim() !== "");
      if (!spoken || element.closest(".unseen") !== null || !element.checkVisibility()) return false;
      const room = element.closest(".product-text") ?? element.closest(".panel");
      const right = room.getBoundingClientRect().right - parseFloat(getComputedStyle(room).paddingRight);
      const range = document.createRange();
      range.selectNodeContents(element);
      return range.getBoundingClientRect().right > right + 2;
    });
    const named = [...out, ...texts].map((element) => `${element.tagName.toLowerCase()}.${element.className} "${element.textContent}" stands out`);
    return wide > 0 ? [`the page is ${wide} px wider than the screen`, ...named] : named;
  });
}

/** Links and buttons that a thumb cannot hit without aiming (WCAG 2.5.5). */
export async function smallTargets(page) {
  return page.locator("a:visible:not(.skip), button:visible").evaluateAll((targets) =>
    targets.flatMap((target) => {
      const { width, height } = target.getBoundingClientRect();
      return width >= 44 && height >= 44 ? [] : [`"${target.textContent.trim()}" is ${width} × ${height} px`];
    }),
  );
}

/** Texts with less contrast to what is behind them than WCAG AA asks for: 4.5, or 3 when they are large. */
export async function faintTexts(page) {
  return page.evaluate(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    // The browser's own reading of a colour, whichever way it is written.
    function rgba(colour) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    }
    const over = ([r, g, b, a], below) => [r, g, b].map((part, index) => a * part + (1 - a) * below[index]);
    function luminance(colour) {
      const [r, g, b] = colour.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }
    function behind(element) {
      const layers = [];
      for (let at = element; at !== null; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
      return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
    }
    function opacity(element) {
      let seen = 1;
      for (let at = element; at !== null; at = at.parentElement) seen *= Number(getComputedStyle(at).opacity);
      return seen;
    }
    const spoken = [...document.querySelectorAll("body *")].filter(
      (element) =>
        element.closest(".unseen, noscript") === null &&
        element.checkVisibility() &&
        [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim() !== ""),
    );
    // A highlight that fades is no state of the page.
    for (const animation of document.getAnimations()) animation.finish();
    return spoken.flatMap((element) => {
      const style = getComputedStyle(element);
      const ground = behind(element);
      const [r, g, b, a] = rgba(style.color);
      const [bright, dark] = [luminance(over([r, g, b, a * opacity(element)], ground)), luminance(ground)].sort((x, y) => y - x);
      const ratio = (bright + 0.05) / (dark + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      return ratio >= (large ? 3 : 4.5) ? [] : [`"${element.textContent.trim()}" has a contrast of ${ratio.toFixed(2)}`];
    });
  });
}

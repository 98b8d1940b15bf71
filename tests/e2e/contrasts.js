/* The lowest contrast of the text in each kind of element with what it stands on (WCAG 2.2); 0 where it is see-through. */
() => {
  const parts = (text) => text.match(/[\d.]+/g).map(Number);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = parts(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const contrastOf = (one) => {
    const style = getComputedStyle(one);
    if (style.opacity !== "1") return 0;
    const color = parts(one.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [low, high] = [light(color), light(behind(one))].sort((first, second) => first - second);
    return (high + 0.05) / (low + 0.05);
  };
  const lowest = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const one = node.parentElement;
    const isShown = node.data.trim() && one.getClientRects().length;
    if (!isShown || one.closest("script, style, noscript, option, .skip")) continue;
    const name = `${one.tagName}.${one.getAttribute("class") || ""}`;
    lowest[name] = Math.min(lowest[name] ?? 99, contrastOf(one));
  }
  return lowest;
}

/* What a screen reader and a keyboard would miss on the page, in words. */
() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const check = (isGood, words) => { if (!isGood) found.push(words); };

  const levels = all("h1, h2, h3, h4, h5, h6").filter((one) => one.offsetParent).map((one) => Number(one.tagName[1]));
  check(levels[0] === 1 && levels.filter((level) => level === 1).length === 1, "not one h1 in front");
  levels.forEach((level, index) => check(!index || level <= levels[index - 1] + 1, `h${level} after h${levels[index - 1]}`));

  for (const image of document.images) check(image.alt.trim(), "an image without words");
  for (const one of all("svg:not([aria-hidden])")) {
    check(one.getAttribute("role") === "img" && one.getAttribute("aria-label"), "a chart without words");
  }
  for (const one of all("input, select")) check(one.labels.length, `${one.id} without label`);
  for (const one of all("button")) check(one.textContent.trim(), "a button without words");

  for (const name of ["header", "nav[aria-label]", "main"]) check(all(`body > ${name}`).length === 1, `no ${name}`);
  for (const one of all("section, [role=region]")) {
    const title = document.getElementById(one.getAttribute("aria-labelledby"))?.textContent;
    check(one.getAttribute("aria-label") || title, "a region without a name");
  }
  for (const one of all(".scroll")) check(one.tabIndex === 0, "scrolls by pointer alone");

  for (const table of all("table")) {
    const rows = [...table.tBodies[0].rows].map((row) => row.cells[0]);
    check(rows.every((head) => head.tagName === "TH" && head.scope === "row"), "a row without head");
    check([...table.tHead.rows[0].cells].every((head) => head.scope === "col"), "a column without head");
  }
  const ids = all("[id]").map((one) => one.id);
  check(new Set(ids).size === ids.length, "an id twice");
  for (const link of all("a[href^='#']")) {
    check(document.getElementById(link.getAttribute("href").slice(1)), `${link.textContent} leads nowhere`);
  }
  return found;
}

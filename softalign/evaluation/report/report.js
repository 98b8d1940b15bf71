"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ADAPTER = 2;
  const CHUNK = 24;
  const CHANGES = [["fixed", "fixed"], ["broken", "broken"], ["right", "both right"], ["wrong", "both wrong"]];
  const COLORS = ["#ffd400", "#00e5ff", "#ff6df0", "#7dff5a", "#ff9d3c", "#b9a6ff"];
  const byId = (id) => document.getElementById(id);
  const gallery = byId("gallery");
  const inputs = {tag: byId("f-tag"), reference: byId("f-reference"), change: byId("f-change"), text: byId("f-text")};
  let matching = [];
  let numShown = 0;

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const drawn = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const changeOf = (entry, reference) => {
    const before = entry.arms[reference].ok;
    const after = entry.arms[ADAPTER].ok;
    return before ? (after ? "right" : "broken") : (after ? "fixed" : "wrong");
  };

  const boxes = (found) => {
    const overlay = drawn("svg", {viewBox: `0 0 ${data.width} ${data.height}`, preserveAspectRatio: "none", "aria-hidden": "true"});
    found.forEach((one, index) => {
      const [x0, y0, x1, y1] = one.box;
      const place = {x: x0, y: y0, width: x1 - x0, height: y1 - y0};
      overlay.append(drawn("rect", {...place, class: "under"}));
      overlay.append(drawn("rect", {...place, class: one.counted ? "" : "ignored", stroke: COLORS[index % COLORS.length]}));
    });
    return overlay;
  };

  const shownArm = (entry, number) => {
    const arm = entry.arms[number];
    const label = data.arms[number];
    const verdict = arm.ok ? "correct" : "wrong";
    const image = element("img", {src: arm.src, alt: `${label}: ${entry.prompt}`, width: data.width, height: data.height, loading: "lazy", decoding: "async"});
    const list = element("ul", {class: "found"});
    arm.found.forEach((one, index) => {
      const key = element("span", {class: "key"});
      key.style.borderColor = COLORS[index % COLORS.length];
      const text = `${one.name} ${one.score.toFixed(2)}${one.counted ? "" : " (ignored)"}`;
      list.append(element("li", {class: one.counted ? "" : "ignored"}, key, text));
    });
    if (!arm.found.length) list.append(element("li", {}, "nothing detected"));
    const text = element("div", {}, ...(arm.why ? [element("p", {class: "why"}, arm.why)] : []), list);
    return element("div", {class: "shown"},
      element("div", {class: "arm"}, element("span", {}, label), element("span", {class: arm.ok ? "ok" : "bad"}, `${arm.ok ? "✓" : "✗"} ${verdict}`)),
      element("span", {class: "picture"}, image, boxes(arm.found)), text);
  };

  const card = (entry) => {
    const change = changeOf(entry, Number(inputs.reference.value));
    const meta = element("p", {class: "meta"}, `${data.tags[entry.tag]} · `,
      element("span", {class: `badge ${change}`}, CHANGES.find(([name]) => name === change)[1]), ` · ${entry.file}`);
    return element("article", {class: "pair", "data-tag": entry.tag, "data-change": change},
      element("h3", {}, entry.prompt), meta,
      element("div", {class: "triple"}, ...entry.arms.map((_, number) => shownArm(entry, number))));
  };

  const showMore = () => {
    const next = matching.slice(numShown, numShown + CHUNK);
    gallery.append(...next.map(card));
    numShown += next.length;
  };
  const isSentinelNear = () => byId("sentinel").getBoundingClientRect().top < window.innerHeight + 600;
  const fill = () => {
    do showMore(); while (numShown < matching.length && isSentinelNear());
  };

  const update = () => {
    const reference = Number(inputs.reference.value);
    const words = inputs.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const tally = {fixed: 0, broken: 0, right: 0, wrong: 0};
    matching = data.entries.filter((entry) => {
      if (inputs.tag.value && entry.tag !== inputs.tag.value) return false;
      const text = `${entry.prompt} ${entry.file} ${entry.arms.map((arm) => arm.why).join(" ")}`.toLowerCase();
      if (!words.every((word) => text.includes(word))) return false;
      const change = changeOf(entry, reference);
      tally[change] += 1;
      return !inputs.change.value || change === inputs.change.value;
    });
    const parts = CHANGES.map(([name, label]) => element("span", {class: `badge ${name}`}, `${tally[name]} ${label}`));
    byId("counts").replaceChildren(element("span", {}, `${matching.length} of ${data.entries.length} images`), ...parts);
    gallery.replaceChildren();
    numShown = 0;
    if (matching.length) fill();
    else gallery.append(element("p", {}, "No image matches these filters."));
  };

  gallery.classList.toggle("crisp", data.crisp);
  byId("f-boxes").addEventListener("change", (event) => gallery.classList.toggle("no-boxes", !event.target.checked));
  for (const input of Object.values(inputs)) input.addEventListener("input", update);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { gallery.classList.remove("no-boxes"); update(); }));
  new IntersectionObserver((seen) => {
    if (seen.some((one) => one.isIntersecting) && numShown < matching.length) fill();
  }, {rootMargin: "600px"}).observe(byId("sentinel"));
  update();
})();

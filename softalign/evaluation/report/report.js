"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const CHUNK = 24;
  const PREVIEW = 6;
  const COLORS = ["#ffd400", "#00e5ff", "#ff6df0", "#7dff5a", "#ff9d3c", "#b9a6ff"];
  const byId = (id) => document.getElementById(id);
  const gallery = byId("gallery");
  const inputs = {tag: byId("f-tag"), reference: byId("f-reference"), change: byId("f-change"), text: byId("f-text")};
  const isPaired = data.pairs.length > 0;
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

  const imageOf = ([isRight, why, src, objects, numLeftOut]) => ({isRight, why, src, objects, numLeftOut});
  const entries = data.entries.map(([file, tag, prompt, images]) => ({file, tag, prompt, images: images.map(imageOf)}));

  /* What became of an image between the columns of a pair; of one column alone whether it is right. */
  const changeOf = (entry, pair) => {
    if (!isPaired) return entry.images[0].isRight ? "right" : "wrong";
    const [candidate, reference] = data.pairs[pair];
    const before = entry.images[reference].isRight;
    const after = entry.images[candidate].isRight;
    return before ? (after ? "right" : "broken") : (after ? "fixed" : "wrong");
  };
  const wordsOf = (pair) => {
    if (!isPaired) return {right: "right", wrong: "wrong"};
    const [candidate, reference] = data.pairs[pair].map((column) => data.columns[column][1]);
    return {
      fixed: `${reference} wrong, ${candidate} right`,
      broken: `${reference} right, ${candidate} wrong`,
      right: "both right",
      wrong: "both wrong",
    };
  };

  const boxes = (objects) => {
    const overlay = drawn("svg", {viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true"});
    objects.forEach(([, , x0, y0, x1, y1, isCounted], index) => {
      const place = {x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0)};
      overlay.append(drawn("rect", {...place, class: "under"}));
      overlay.append(drawn("rect", {...place, class: isCounted ? "" : "ignored", stroke: COLORS[index % COLORS.length]}));
    });
    return overlay;
  };

  const foundList = ({objects, numLeftOut}) => {
    const list = element("ul", {class: "found"});
    if (objects === null) list.append(element("li", {}, "no objects are kept"));
    else if (!objects.length) list.append(element("li", {}, "nothing detected"));
    (objects || []).forEach(([name, score, , , , , isCounted], index) => {
      const key = element("span", {class: "key"});
      key.style.borderColor = COLORS[index % COLORS.length];
      const text = `${data.names[name]} ${(score / 100).toFixed(2)}${isCounted ? "" : " (ignored)"}`;
      list.append(element("li", {class: isCounted ? "" : "ignored"}, key, text));
    });
    if (numLeftOut) list.append(element("li", {class: "ignored"}, `and ${numLeftOut} more`));
    return list;
  };

  const pictureOf = (image, alt) => {
    if (!image.src) return element("span", {class: "picture none"}, "no picture");
    const shown = element("img", {src: data.prefix + image.src, alt, width: data.width, height: data.height, loading: "lazy", decoding: "async"});
    return element("span", {class: "picture"}, shown, boxes(image.objects || []));
  };

  const shownColumn = (entry, number) => {
    const image = entry.images[number];
    const label = data.columns[number][0];
    const verdict = image.isRight ? "correct" : "wrong";
    const text = element("div", {}, ...(image.why ? [element("p", {class: "why"}, image.why)] : []), foundList(image));
    return element("div", {class: "shown"},
      element("div", {class: "arm"}, element("span", {}, label), element("span", {class: image.isRight ? "ok" : "bad"}, `${image.isRight ? "✓" : "✗"} ${verdict}`)),
      pictureOf(image, `${label}, ${verdict}: ${entry.prompt}`), text);
  };

  const card = (entry, pair, level) => {
    const change = changeOf(entry, pair);
    const meta = element("p", {class: "meta"}, `${data.tags[entry.tag]} · `,
      element("span", {class: `badge ${change}`}, wordsOf(pair)[change]), ` · ${entry.file}`);
    const columns = element("div", {class: "columns"}, ...entry.images.map((_, number) => shownColumn(entry, number)));
    return element("article", {class: "pair", "data-tag": entry.tag, "data-change": change}, element(level, {}, entry.prompt), meta, columns);
  };

  /* The two galleries of what changed, each with its first images and a button for more. */
  const showChanges = () => {
    const pair = Number(byId("f-pair").value);
    const words = wordsOf(pair);
    byId("changes").replaceChildren(...["fixed", "broken"].map((change) => {
      const found = entries.filter((entry) => changeOf(entry, pair) === change);
      const title = words[change][0].toUpperCase() + words[change].slice(1);
      const cards = element("div", {class: "gallery", id: change});
      cards.classList.toggle("crisp", data.crisp);
      const more = element("button", {type: "button"});
      const grow = (number) => {
        const start = cards.childElementCount;
        cards.append(...found.slice(start, start + number).map((entry) => card(entry, pair, "h4")));
        more.textContent = `Show more (${found.length - cards.childElementCount} left)`;
        more.hidden = cards.childElementCount >= found.length;
        return cards.children[start];
      };
      more.addEventListener("click", () => {
        const first = grow(CHUNK);
        first.tabIndex = -1;
        first.focus({preventScroll: true});
      });
      grow(PREVIEW);
      if (!found.length) cards.append(element("p", {}, "No image."));
      const heading = element("h3", {class: change}, `${title}: ${found.length} ${found.length === 1 ? "image" : "images"}`);
      return element("div", {}, heading, cards, more);
    }));
  };

  const showMore = () => {
    const pair = isPaired ? Number(inputs.reference.value) : 0;
    const next = matching.slice(numShown, numShown + CHUNK);
    gallery.append(...next.map((entry) => card(entry, pair, "h3")));
    numShown += next.length;
  };
  const isSentinelNear = () => byId("sentinel").getBoundingClientRect().top < window.innerHeight + 600;
  const fill = () => {
    do showMore(); while (numShown < matching.length && isSentinelNear());
  };

  const nameChanges = () => {
    const words = wordsOf(isPaired ? Number(inputs.reference.value) : 0);
    const kept = inputs.change.value;
    const options = Object.entries(words).map(([name, label]) => element("option", {value: name}, label));
    inputs.change.replaceChildren(element("option", {value: ""}, "all"), ...options);
    inputs.change.value = kept;
  };

  const update = () => {
    const pair = isPaired ? Number(inputs.reference.value) : 0;
    const words = inputs.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const labels = wordsOf(pair);
    const tally = Object.fromEntries(Object.keys(labels).map((name) => [name, 0]));
    matching = entries.filter((entry) => {
      if (inputs.tag.value && entry.tag !== inputs.tag.value) return false;
      const text = `${entry.prompt} ${entry.file} ${entry.images.map((image) => image.why).join(" ")}`.toLowerCase();
      if (!words.every((word) => text.includes(word))) return false;
      const change = changeOf(entry, pair);
      tally[change] += 1;
      return !inputs.change.value || change === inputs.change.value;
    });
    const parts = Object.entries(labels).map(([name, label]) => element("span", {class: `badge ${name}`}, `${tally[name]} ${label}`));
    byId("counts").replaceChildren(element("span", {}, `${matching.length} of ${entries.length} images`), ...parts);
    gallery.replaceChildren();
    numShown = 0;
    if (matching.length) fill();
    else gallery.append(element("p", {}, "No image matches these filters."));
  };

  document.body.style.setProperty("--columns", data.columns.length);
  gallery.classList.toggle("crisp", data.crisp);
  byId("f-boxes").addEventListener("change", (event) => document.body.classList.toggle("no-boxes", !event.target.checked));
  if (isPaired) {
    byId("f-pair").addEventListener("input", showChanges);
    byId("choice").addEventListener("submit", (event) => event.preventDefault());
    inputs.reference.addEventListener("input", nameChanges);
    showChanges();
  }
  for (const input of Object.values(inputs)) if (input) input.addEventListener("input", update);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { document.body.classList.remove("no-boxes"); nameChanges(); update(); }));
  new IntersectionObserver((seen) => {
    if (seen.some((one) => one.isIntersecting) && numShown < matching.length) fill();
  }, {rootMargin: "600px"}).observe(byId("sentinel"));
  nameChanges();
  update();
})();

"use strict";
// The list of items with its filters, for the report and for the viewer. All text of models and data is set as text,
// never as HTML. Items are drawn a chunk at a time, and what is in one when it is opened.

const CHUNK = 40;
const DIFF_CELLS = 4e6; // products of token counts that are compared: about 30 ms
const SAMENESS = { all: "all", improved: "improved", worsened: "worsened", same: "same", right: "same: both correct", wrong: "same: both not" };
const VERDICTS = ["correct", "uncompared", "wrong", "unparsable", "absent"];
const RIGHT = ["correct", "uncompared"]; // as far as can be told: the second parses, and nothing is expected

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function share(answers) {
  return answers.filter((answer) => RIGHT.includes(answer.verdict)).length / answers.length;
}

function changeOf(item, from, to) {
  const difference = share(item.answers[to]) - share(item.answers[from]);
  return difference > 0 ? "improved" : difference < 0 ? "worsened" : "same";
}

function verdictTag(answers) {
  if (answers.length > 1) {
    const right = answers.filter((answer) => RIGHT.includes(answer.verdict)).length;
    const what = answers.some((answer) => answer.verdict === "uncompared") ? "valid" : "correct";
    return element("span", { class: `tag ${right === answers.length ? "correct" : right ? "" : "wrong"}` }, `${right}/${answers.length} ${what}`);
  }
  const verdict = answers[0].verdict;
  return element("span", { class: `tag ${verdict}` }, `${RIGHT.includes(verdict) ? "✓" : "✗"} ${verdict === "uncompared" ? "valid, uncompared" : verdict}`);
}

// Tokens that differ between two texts, as [kind, text] with kind "same", "del" (expected only) or "ins" (answer only);
// null where the texts are too long to be compared.
function difference(expected, found) {
  const split = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^]/gu) || [];
  const a = split(expected), b = split(found);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const n = a.length - start - end, m = b.length - start - end;
  if (n * m > DIFF_CELLS) return null;
  const width = m + 1, longest = new Uint32Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      longest[i * width + j] = a[start + i] === b[start + j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const parts = [];
  const add = (kind, text) => {
    if (parts.length && parts[parts.length - 1][0] === kind) parts[parts.length - 1][1] += text;
    else if (text) parts.push([kind, text]);
  };
  add("same", a.slice(0, start).join(""));
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (i < n && j < m && a[start + i] === b[start + j]) { add("same", a[start + i]); i++; j++; }
    else if (i < n && (j === m || longest[(i + 1) * width + j] >= longest[i * width + j + 1])) add("del", a[start + i++]);
    else add("ins", b[start + j++]);
  }
  add("same", a.slice(a.length - end).join(""));
  return parts;
}

function rawText(text, nothing = "nothing was written") {
  return text === "" ? element("p", { class: "empty" }, nothing) : element("pre", {}, text);
}

function differingText(expected, found) {
  const parts = difference(expected, found);
  if (parts === null) return element("div", {}, element("p", { class: "why" }, "too long to mark the differences"), rawText(found));
  return element("pre", {}, ...parts.map(([kind, text]) => (kind === "same" ? text : element(kind, {}, text))));
}

// Show `data`. `hooks.answer(pane, item, candidate, sample)` and `hooks.gold(pane, item)` may add to a pane that is opened.
function showItems(data, hooks) {
  const form = document.getElementById("filters"), list = document.getElementById("list");
  const count = document.getElementById("count"), more = document.getElementById("more");
  const open = new Set();
  let matching = [], shown = 0;

  const index = (name) => data.candidates.indexOf(form.elements[name].value);

  function options(name, values, chosen) {
    const select = form.elements[name];
    select.replaceChildren(...values.map(([value, text]) => element("option", { value }, text)));
    select.value = chosen; // not the attribute: a reset would come back to it
  }

  function fillNames(from, to) {
    const names = data.candidates.map((name) => [name, name]);
    options("from", names, from);
    options("to", names, to);
    for (const label of form.querySelectorAll(".of-pair")) label.hidden = data.candidates.length < 2;
  }

  // The numbers beside the options are those of all items; the choices hold for the candidate in "To".
  function fillCounts() {
    const from = index("from"), to = index("to"), change = form.elements.change.value || "all";
    const verdict = form.elements.verdict.value || "all", kind = form.elements.kind.value || "all";
    const changes = { improved: 0, worsened: 0, same: 0, right: 0, wrong: 0 }, verdicts = {}, kinds = {};
    for (const item of data.items) {
      const one = changeOf(item, from, to);
      changes[one]++;
      if (one === "same" && share(item.answers[to]) === 1) changes.right++;
      if (one === "same" && share(item.answers[to]) === 0) changes.wrong++;
      for (const answer of item.answers[to]) {
        verdicts[answer.verdict] = (verdicts[answer.verdict] || 0) + 1;
        for (const name of answer.kinds) kinds[name] = (kinds[name] || 0) + 1;
      }
    }
    options("change", Object.entries(SAMENESS).map(([key, text]) => [key, key === "all" ? text : `${text} (${changes[key]})`]), change);
    const of = data.candidates.length > 1 ? ` of ${data.candidates[to]}` : "";
    options("verdict", [["all", `all${of}`], ...VERDICTS.filter((name) => name !== "uncompared" || data.uncompared).map((name) => [name, `${name} (${verdicts[name] || 0})`])], verdict);
    const found = Object.entries(kinds).sort((a, b) => b[1] - a[1]);
    if (kind !== "all" && !kinds[kind]) found.push([kind, 0]);
    options("kind", [["all", `all${of}`], ...found.map(([name, number]) => [name, `${name} (${number})`])], kind);
  }

  function fillGroups() {
    const groups = new Map();
    for (const item of data.items) groups.set(item.group, (groups.get(item.group) || 0) + 1);
    options("group", [["", `all (${data.items.length})`], ...[...groups].map(([name, number]) => [name, `${name} (${number})`])], "");
  }

  function texts(item) {
    if (item.searched === undefined) {
      const all = [item.id, item.gold, ...item.prompt.map((turn) => turn[1]), ...item.answers.flat().map((answer) => `${answer.text}\n${answer.error}`)];
      item.searched = all.join("\n").toLowerCase();
    }
    return item.searched;
  }

  function matches(item, wanted) {
    const answers = item.answers[wanted.to];
    if (wanted.group && item.group !== wanted.group) return false;
    if (wanted.verdict !== "all" && !answers.some((answer) => answer.verdict === wanted.verdict)) return false;
    if (wanted.kind !== "all" && !answers.some((answer) => answer.kinds.includes(wanted.kind))) return false;
    if (wanted.change !== "all") {
      const change = changeOf(item, wanted.from, wanted.to);
      if (wanted.change === "right" || wanted.change === "wrong") {
        if (change !== "same" || share(answers) !== (wanted.change === "right" ? 1 : 0)) return false;
      } else if (change !== wanted.change) return false;
    }
    return !wanted.q || texts(item).includes(wanted.q);
  }

  function row(item) {
    const tags = element("span", { class: "verdicts" });
    data.candidates.forEach((name, i) => tags.append(element("span", {}, `${name} `, verdictTag(item.answers[i]))));
    const made = element("details", { class: "item", "data-id": item.id },
      element("summary", {}, element("span", { class: "tag" }, item.group), element("code", {}, item.id), tags));
    made.addEventListener("toggle", () => {
      if (made.open) open.add(item.id); else open.delete(item.id);
      if (made.open && made.childElementCount === 1) made.append(panes(item));
      remember();
    });
    made.open = open.has(item.id);
    return made;
  }

  function panes(item) {
    const prompt = element("section", { class: "pane" }, element("h3", {}, "prompt"));
    for (const [role, text] of item.prompt) prompt.append(element("div", { class: "role" }, role), rawText(text));
    const all = [prompt];
    if (data.expects) {
      const gold = element("section", { class: "pane" }, element("h3", {}, "expected"), element("div", { class: "body" }, rawText(item.gold, "no text is expected")));
      if (hooks.gold) hooks.gold(gold, item);
      all.push(gold);
    }
    data.candidates.forEach((name, candidate) => item.answers[candidate].forEach((answer, sample) => {
      const number = item.answers[candidate].length > 1 ? `, sample ${sample + 1}` : "";
      const text = form.elements.diff.checked && item.gold ? differingText(item.gold, answer.text) : rawText(answer.text);
      const pane = element("section", { class: "pane", "data-candidate": name },
        element("h3", {}, `${name}${number} `, verdictTag([answer])), element("div", { class: "body" }, text));
      const why = [answer.error, ...answer.kinds.filter((kind) => /^(cut|ended by) /.test(kind))].filter(Boolean).join("; ");
      if (why) pane.append(element("p", { class: "why" }, why));
      if (hooks.answer) hooks.answer(pane, item, candidate, sample);
      all.push(pane);
    }));
    return element("div", { class: "panes" }, ...all);
  }

  function grow() {
    const next = matching.slice(shown, shown + CHUNK);
    list.append(...next.map(row));
    shown += next.length;
    more.hidden = shown >= matching.length;
    more.textContent = `Show more (${matching.length - shown} left)`;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of ["q", "group", "change", "verdict", "kind"]) {
      const value = form.elements[name].value;
      if (value && value !== "all") state.set(name, value);
    }
    for (const [name, usual] of [["from", data.pair[0]], ["to", data.pair[1]]])
      if (form.elements[name].value !== usual) state.set(name, form.elements[name].value);
    if (form.elements.diff.checked) state.set("diff", "1");
    for (const id of open) state.append("open", id);
    history.replaceState(null, "", `#${state}`);
  }

  function update(least) {
    fillCounts();
    const wanted = { from: index("from"), to: index("to"), q: form.elements.q.value.trim().toLowerCase() };
    for (const name of ["group", "change", "verdict", "kind"]) wanted[name] = form.elements[name].value;
    matching = data.items.filter((item) => matches(item, wanted));
    list.replaceChildren();
    shown = 0;
    do grow(); while (shown < Math.min(least || 0, matching.length));
    count.textContent = `${matching.length} of ${data.items.length} items`;
    remember();
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    const known = (name, usual) => (data.candidates.includes(state.get(name)) ? state.get(name) : usual);
    fillNames(known("from", data.pair[0]), known("to", data.pair[1]));
    fillGroups();
    fillCounts();
    form.elements.q.value = state.get("q") || "";
    form.elements.diff.checked = state.has("diff");
    for (const name of ["group", "change", "verdict", "kind"]) {
      const value = state.get(name);
      if ([...form.elements[name].options].some((option) => option.value === value)) form.elements[name].value = value;
    }
    for (const id of state.getAll("open")) open.add(id);
  }

  let waiting;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => update(), event.target.name === "q" ? 120 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => { open.clear(); setTimeout(() => { fillNames(...data.pair); fillCounts(); update(); }); });
  more.addEventListener("click", grow);
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) grow(); }, { rootMargin: "600px" }).observe(more);
  for (const link of document.querySelectorAll("[data-kind]")) {
    link.addEventListener("click", () => {
      form.reset();
      setTimeout(() => {
        form.elements.to.value = link.dataset.candidate;
        fillCounts();
        form.elements.kind.value = link.dataset.kind;
        update();
        form.scrollIntoView();
      });
    });
  }
  form.elements.diff.parentElement.hidden = !data.expects;
  restore();
  update();
  document.documentElement.dataset.ready = "yes";

  // Draw an item anew after it has changed; `names` are given when a candidate has come or gone.
  function changed(item, names) {
    item.searched = undefined;
    const { scrollX, scrollY } = window;
    if (names) {
      const [from, to] = [form.elements.from.value, form.elements.to.value];
      data.candidates = names;
      data.pair = data.pair.map((name, i) => (names.includes(name) ? name : names[i * (names.length - 1)]));
      fillNames(names.includes(from) ? from : data.pair[0], names.includes(to) ? to : data.pair[1]);
      update(shown);
    } else {
      fillCounts();
      drawn(item)?.replaceWith(row(item));
    }
    scrollTo(scrollX, scrollY);
    drawn(item)?.querySelector("summary").focus({ preventScroll: true });
  }

  function drawn(item) {
    return [...list.children].find((one) => one.dataset.id === item.id);
  }
  return { changed };
}

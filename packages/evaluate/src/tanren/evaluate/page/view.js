"use strict";
// The viewer: the list of items, with answers as tables and trees, and an editor. What a model wrote is set as text only.

async function ask(path, body) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = "";
  const request = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  try {
    const answer = await fetch(path, request);
    if (answer.status === 403) throw new Error(await answer.text());
    return { status: answer.status, value: await answer.json() };
  } catch (error) {
    trouble.textContent = `${error.message}. Does \`tanren view\` still run? Nothing was saved.`;
    return { status: 0, value: null };
  }
}

function scalar(node) {
  return element("span", { class: node[0] }, node[0] === "text" ? JSON.stringify(node[1]) : node[1]);
}

function tree(node, key) {
  const name = key === undefined ? null : element("span", { class: "key" }, `${key}: `);
  if (node[0] !== "map" && node[0] !== "list") return element("div", { class: "leaf" }, name, scalar(node));
  const size = element("span", { class: "dim" }, node[0] === "map" ? `{${node[1].length}}` : `[${node[1].length}]`);
  const inner = node[0] === "map" ? node[1].map(([below, value]) => tree(value, below)) : node[1].map((value, i) => tree(value, i));
  return element("details", { open: true }, element("summary", {}, name, size), ...inner);
}

function xml([tag, attributes, text, children]) {
  const name = element("span", { class: "element" }, tag);
  const said = attributes.map(([key, value]) => ` ${key}=${JSON.stringify(value)}`).join("");
  if (!children.length) return element("div", { class: "leaf" }, name, element("span", { class: "dim" }, said), text.trim() ? `: ${text.trim()}` : "");
  const made = element("details", { open: true }, element("summary", {}, name, element("span", { class: "dim" }, said)));
  if (text.trim()) made.append(element("div", { class: "leaf" }, text.trim()));
  for (const child of children) {
    made.append(xml(child));
    if (child[4].trim()) made.append(element("div", { class: "leaf" }, child[4].trim()));
  }
  return made;
}

function table(shown) {
  const width = shown.header.length;
  const rows = shown.rows.map((cells) => {
    const row = element("tr", {}, ...cells.map((cell, i) => element("td", i < width ? {} : { class: "uneven", title: "more cells than the header has" }, cell)));
    if (cells.length < width) row.append(element("td", { class: "uneven", colspan: width - cells.length }, `${width - cells.length} missing`));
    return row;
  });
  const head = element("thead", {}, element("tr", {}, ...shown.header.map((cell) => element("th", { scope: "col" }, cell))));
  const made = element("div", {}, element("table", {}, head, element("tbody", {}, ...rows)));
  if (shown.left_out) made.append(element("p", { class: "why" }, `${shown.left_out} more rows are in the raw text`));
  return made;
}

function structure(shown) {
  const made = shown.kind === "table" ? table(shown) : shown.kind === "xml" ? xml(shown.root) : tree(shown.root);
  return element("div", { class: "shown", tabindex: "0", role: "group", "aria-label": shown.kind === "table" ? "table" : "tree" }, made);
}

// Put the structured view into a pane, with buttons between it and the raw text.
async function offerStructure(pane, tools, candidate, id, sample) {
  const { status, value } = await ask(`api/shown?${new URLSearchParams({ candidate, id, sample })}`);
  if (status !== 200 || value === null || !pane.isConnected) return;
  const body = pane.querySelector(".body"), raw = [...body.childNodes];
  const buttons = [];
  const choose = (which) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === which)));
    body.replaceChildren(...(which === 0 ? [structure(value)] : raw));
  };
  [value.kind === "table" ? "Table" : "Tree", "Raw"].forEach((name, i) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => choose(i));
    buttons.push(button);
  });
  tools.prepend(...buttons);
  choose(document.getElementById("filters").elements.diff.checked ? 1 : 0);
}

function fillScores(scores) {
  document.getElementById("scores").replaceChildren(...scores.map((one) =>
    element("tr", {}, element("th", { scope: "row" }, one.name), element("td", {}, String(one.n)), element("td", {}, one.correct), element("td", {}, one.valid))));
}

// After an edit a candidate may have come (its copies are those of the one it was made from) or gone.
function realign(data, names, edited) {
  for (const item of data.items)
    item.answers = names.map((name) => {
      const known = data.candidates.indexOf(name);
      return item.answers[known >= 0 ? known : data.candidates.indexOf(edited[name])];
    });
}

async function start() {
  const { status, value: data } = await ask("api/items");
  if (status !== 200) return;
  fillScores(data.scores);

  // What is being written, by place: a list that is drawn anew (a filter, a save elsewhere) must not lose it.
  const drafts = new Map();
  const place = (item, source, sample) => JSON.stringify([item.id, source, sample]);
  addEventListener("beforeunload", (event) => { if (drafts.size) event.preventDefault(); });

  // The editor stands beside the body, which may still be waiting for its structure.
  function edit(pane, item, source, sample, text) {
    const key = place(item, source, sample);
    const area = element("textarea", { "aria-label": `edited answer of ${source} to ${item.id}`, spellcheck: "false" });
    area.value = text; // every line ends the same in it
    const draft = drafts.get(key) || { value: area.value, seen: text };
    area.value = draft.value;
    const save = element("button", { type: "button" }, "Save"), cancel = element("button", { type: "button" }, "Cancel");
    const said = element("div", { class: "said why", role: "status" }, "Ctrl+Enter saves, Escape leaves it as it was");
    const editor = element("div", {}, area, element("div", { class: "tools" }, save, cancel), said);
    const others = [pane.querySelector(".body"), pane.querySelector(".tools")];
    for (const other of others) other.hidden = true;
    pane.append(editor);
    const leave = () => {
      drafts.delete(key);
      editor.remove();
      for (const other of others) other.hidden = false;
      pane.querySelector(".edit").focus();
    };
    const store = async () => {
      if (area.value === draft.seen.replace(/\r\n?/g, "\n")) { leave(); return; }
      save.disabled = true;
      const answer = await keep(item, source, sample, area.value, draft.seen);
      save.disabled = false;
      if (answer.status === 409) {
        const theirs = element("button", { type: "button" }, "Take that text"), mine = element("button", { type: "button" }, "Save mine all the same");
        theirs.addEventListener("click", () => {
          area.value = draft.value = draft.seen = answer.value.now;
          said.textContent = "This is what is saved now; a reload shows it in the list.";
        });
        mine.addEventListener("click", () => { draft.seen = answer.value.now; store(); });
        said.replaceChildren(`${answer.value.error}; it is now: `, element("pre", {}, answer.value.now), theirs, " ", mine);
      } else if (answer.status !== 200) said.textContent = answer.value ? answer.value.error : "not saved";
    };
    save.addEventListener("click", store);
    cancel.addEventListener("click", leave);
    area.addEventListener("input", () => { draft.value = area.value; drafts.set(key, draft); });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); store(); }
    });
    return area;
  }

  async function keep(item, source, sample, text, seen) {
    const answer = await ask("api/answer", { candidate: source, identity: item.id, sample, text, seen });
    if (answer.status !== 200) return answer;
    drafts.delete(place(item, source, sample));
    const { candidates, edited, answers, scores } = answer.value;
    const other = candidates.join("\n") !== data.candidates.join("\n");
    if (other) realign(data, candidates, edited);
    data.edited = edited;
    item.answers = candidates.map((name) => answers[name]);
    fillScores(scores);
    view.changed(item, other ? candidates : null);
    return answer;
  }

  function answer(pane, item, candidate, sample) {
    const name = data.candidates[candidate], source = data.edited[name];
    const tools = element("div", { class: "tools" });
    pane.querySelector("h3").after(tools);
    const edits = element("span", { class: "edits" });
    const text = item.answers[candidate][sample].text;
    const made = source === undefined ? text : item.answers[data.candidates.indexOf(source)][sample].text;
    // One place to edit: where edits are, they are edited on.
    if (source !== undefined || !Object.values(data.edited).includes(name)) {
      const button = element("button", { type: "button", class: "edit" }, "Edit");
      button.addEventListener("click", () => edit(pane, item, source || name, sample, text).focus());
      edits.append(button);
      tools.append(edits);
      if (drafts.has(place(item, source || name, sample))) edit(pane, item, source || name, sample, text);
    }
    if (text !== made) {
      const undo = element("button", { type: "button" }, "Take the edit back");
      undo.addEventListener("click", async () => {
        const done = await keep(item, source, sample, made, text);
        if (done.status !== 200 && done.value) document.getElementById("trouble").textContent = done.value.error;
      });
      edits.append(undo);
    } else if (source !== undefined) pane.querySelector("h3").append(element("span", { class: "tag" }, "not edited"));
    tools.append(edits);
    offerStructure(pane, tools, name, item.id, sample);
  }

  function gold(pane, item) {
    const tools = element("div", { class: "tools" });
    pane.querySelector("h3").after(tools);
    offerStructure(pane, tools, "", item.id, 0);
  }

  const view = showItems(data, { answer, gold });
}

start();

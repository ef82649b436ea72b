"use strict";

// The page of `mlx serve`: all that it shows comes from the routes that /openapi.json describes.

const at = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let kind = "image";

function made(tag, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function say(text) { at("status").textContent = text; }

async function send(method, path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    return await fetch(path, { method, headers, body });
  } catch {
    throw new Error("the server does not answer");
  }
}

async function ask(method, path, body) {
  const reply = await send(method, path, body);
  if (reply.status === 401) {
    at("login").hidden = false;
    throw new Error(token ? "the token is wrong" : "");
  }
  const found = await reply.json().catch(() => ({ error: `the server answers with status ${reply.status}` }));
  if (!reply.ok) throw new Error(found.error);
  return found;
}

// Run something that may fail, with its buttons disabled, and say why it failed.
async function trying(form, run) {
  at("problem").textContent = "";
  const buttons = form.querySelectorAll("button, input, textarea"), focus = document.activeElement;
  buttons.forEach((button) => { button.disabled = true; });
  try {
    await run();
  } catch (error) {
    say("");
    at("problem").textContent = error.message;
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    const next = at("login").hidden ? focus : at("token");
    if (document.activeElement === document.body && next.isConnected) next.focus();
  }
}

async function refresh() {
  const found = await ask("GET", "classes");
  kind = found.kind;
  document.title = `${found.artefact} - mlx serve`;
  at("name").textContent = found.artefact;
  const changes = found.statistics === "support" ? " A further class changes the other answers a little." : "";
  at("about").textContent = `Classifies by a few examples of each class. Takes ${found.takes.join(", ")}.${changes}`;
  document.querySelectorAll(".files").forEach((part) => { part.hidden = kind === "text"; });
  document.querySelectorAll(".texts").forEach((part) => { part.hidden = kind !== "text"; });
  show(found.classes);
  at("login").hidden = true;
  at("main").hidden = false;
}

function show(classes) {
  const rows = Object.entries(classes).map(([name, count]) => {
    const row = made("li");
    const remove = made("button", "Remove", "plain");
    remove.setAttribute("aria-label", `Remove the class ${name}`);
    remove.onclick = () => {
      if (!confirm(`Remove the class ${name} and its examples?`)) return;
      say(`removing ${name} ...`);
      trying(row, async () => {
        show((await ask("DELETE", `classes/${encodeURIComponent(name)}`)).classes);
        say(`${name} is removed`);
        at("class").focus();
      });
    };
    row.append(made("span", name), made("span", count === 1 ? "1 example" : `${count} examples`, "faint"), remove);
    return row;
  });
  at("classes").replaceChildren(...rows);
}

function lines(id) { return at(id).value.split("\n").filter((line) => line.trim()); }

// What a drop zone holds: the files that were chosen or dropped.
function dropped(input, use) {
  const zone = input.closest(".drop");
  input.onchange = () => use([...input.files]);
  zone.ondragover = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    use([...event.dataTransfer.files]);
  };
}

function picture(file) {
  if (kind !== "image") return made("span", file.name);
  const image = made("img");
  image.alt = file.name;
  fill(image, file);
  return image;
}

function fill(image, content) {
  image.onload = () => URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(content);
}

// The nearest examples of an answer: their pictures, or their names in a table where they have none.
function nearest(examples) {
  if (!examples[0].picture) return table("Nearest examples, distance", examples.map((one) => [one.example, distance(one)]));
  const list = made("ul", "", "nearest");
  for (const one of examples) {
    const image = made("img"), item = made("li");
    image.alt = `example of ${one.class}`;
    send("GET", one.picture).then(async (reply) => { if (reply.ok) fill(image, await reply.blob()); }).catch(() => {});
    item.append(figure(image, `${one.example}, ${distance(one)}`));
    list.append(item);
  }
  const block = made("div");
  block.append(made("p", "Nearest examples, distance", "caption"), list);
  return block;
}

function distance(one) { return one.distance.toFixed(2); }

let examples = [];

function choose(files) {
  examples = files;
  at("chosen").replaceChildren(...files.map(picture));
}

at("enrol").onsubmit = (event) => {
  event.preventDefault();
  const name = at("class").value.trim();
  const form = new FormData();
  if (kind === "text") lines("sentences").forEach((line) => form.append("examples", line));
  else examples.forEach((file) => form.append("examples", file));
  trying(event.target, async () => {
    if (![...form].length) throw new Error(`give some examples of ${name}`);
    say(`learning ${name} ...`);
    show((await ask("PUT", `classes/${encodeURIComponent(name)}`, form)).classes);
    say(`${name} is learnt`);
    event.target.reset();
    choose([]);
  });
};

at("ask").onsubmit = (event) => {
  event.preventDefault();
  classify(lines("lines").map((line) => new File([line], line)));
};

function classify(files) {
  trying(at("ask"), async () => {
    const refused = [];
    for (const file of files) {
      say(`classifying ${file.name} ...`);
      let found;
      try {
        found = await ask("POST", "predict", file);
      } catch (error) {
        if (!at("login").hidden) throw error;
        say("");
        refused.push(`${file.name.slice(0, 60)}: ${error.message}`);
        continue;
      }
      const card = made("li");
      const shown = made("div", "", "shown");
      card.append(...told(file, found));
      card.insertBefore(shown, card.querySelector(".tables"));
      if (kind === "image") shown.append(figure(picture(file), file.name));
      at("answers").prepend(card);
      say(`${file.name}: ${sentence(found)}`);
      try {
        shown.append(...explained(await ask("POST", "explain", file)));
      } catch (error) {
        shown.append(made("p", error.message, "faint"));
      }
    }
    at("problem").textContent = refused.join("; ");
  });
  at("queries").value = "";
}

function sentence(found) {
  const unknown = found.unknown ? ", but it is probably of none of the classes" : "";
  return `${found.class}, probability ${(100 * found.probability).toFixed(1)} %${unknown}`;
}

function told(file, found) {
  const parts = [made("h3", `${found.class}, ${(100 * found.probability).toFixed(1)} %`)];
  if (kind !== "image") parts.push(made("p", file.name, "faint"));
  if (found.unknown) parts.push(made("p", "unknown: farther from every class than its items usually are", "warn"));
  if (found.unlike.length) parts.push(made("p", `unlike all examples: ${found.unlike.join(", ")}`, "warn"));
  const shares = Object.entries(found.probabilities).sort((one, two) => two[1] - one[1]).slice(0, 5);
  const tables = made("div", "", "tables");
  tables.append(
    table("Probability", shares.map(([name, share]) => [name, `${(100 * share).toFixed(1)} %`, share])),
    nearest(found.examples),
  );
  return [...parts, tables];
}

function table(title, rows) {
  const made_ = made("table");
  made_.append(made("caption", title));
  for (const [name, value, share] of rows) {
    const row = made("tr");
    const head = made("th", name);
    head.scope = "row";
    if (share !== undefined) {
      const bar = made("div", "", "bar");
      bar.style.width = `${100 * share}%`;
      head.append(bar);
    }
    row.append(head, made("td", value));
    made_.append(row);
  }
  return made_;
}

function figure(content, caption) {
  const found = made("figure");
  found.append(content, made("figcaption", caption));
  return found;
}

function explained(found) {
  if (found.parts) {
    const list = made("ul", "", "parts");
    const most = Math.max(...found.parts.map((one) => Math.abs(one.value)), 1e-9);
    for (const { part, value } of found.parts) {
      const item = made("li", `${part} `);
      item.append(made("small", String(Number(value.toPrecision(2)))));
      if (Math.abs(value) > most / 4) item.style.borderColor = `var(${value > 0 ? "--for" : "--against"})`;
      list.append(item);
    }
    const block = made("div");
    block.append(made("p", `What speaks for ${found.class} (red), and against it (blue)`, "faint"), list);
    return [block];
  }
  const axes = kind === "audio" ? ", time to the right and high tones at the top" : "";
  return [figure(map(found), `as the network sees it${axes}: red speaks for ${found.class}, blue against it`)];
}

// Draw the item in gray, and over it the values of its pixels; low tones of a recording are at the bottom.
function map(found) {
  const turned = (rows) => (kind === "audio" ? [...rows].reverse() : rows);
  const values = turned(found.values), channels = found.item.map(turned);
  const height = values.length, width = values[0].length;
  const canvas = made("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const most = Math.max(...values.flat().map(Math.abs), 1e-9);
  const sums = [0, 0, 0, 0, 0, 0, 0, 0, 0];
  values.forEach((row, y) => row.forEach((value, x) => {
    const gray = 255 * channels.reduce((sum, channel) => sum + channel[y][x], 0) / channels.length;
    const strength = 0.75 * Math.abs(value) / most, colour = value > 0 ? [224, 48, 80] : [33, 120, 210];
    const place = 4 * (y * width + x);
    colour.forEach((part, i) => { image.data[place + i] = gray * (1 - strength) + part * strength; });
    image.data[place + 3] = 255;
    sums[3 * Math.floor(3 * y / height) + Math.floor(3 * x / width)] += value;
  }));
  context.putImageData(image, 0, 0);
  const strongest = sums.indexOf(Math.max(...sums));
  const where = `${["top", "middle", "bottom"][Math.floor(strongest / 3)]} ${["left", "centre", "right"][strongest % 3]}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map of what speaks for ${found.class}: most of it at the ${where}`);
  return canvas;
}

at("login").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("token", token);
  trying(event.target, refresh);
};

dropped(at("queries"), classify);
dropped(at("examples"), choose);
trying(document.body, refresh);

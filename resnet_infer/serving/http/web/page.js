// The page of `resnet-infer serve`: pictures in, classes as bars, and where in the picture the network sees them.

const AT_A_TIME = 4;
const RETRIES = 10;
// From "no evidence" to "most": colour and opacity, darker with more.
const SCALE = [[255, 237, 160, 0], [254, 178, 76, 0.45], [240, 59, 32, 0.7], [150, 0, 60, 0.85]];

const element = (id) => document.getElementById(id);
const results = element("results");
const status = element("status");
const queue = [];
let running = 0;
let model = null;
let hasMaps = true;
let key = "";

// The model

async function introduce() {
  const line = element("model");
  try {
    const response = await ask("model", { method: "GET" });
    if (response.status === 401) {
      line.textContent = "The service needs its API key before it answers.";
      return;
    }
    if (!response.ok) throw new Error(await reason(response));
    model = await response.json();
  } catch (error) {
    line.textContent = `The service is not ready: ${error.message}`;
    setTimeout(introduce, 2000);
    return;
  }
  const count = model.classes.length;
  const known = count <= 12 ? model.classes.join(", ") : `${count.toLocaleString("en")} classes`;
  line.textContent = `${model.name} (${model.runtime.precision}, ${model.runtime.device}) knows ${known}.`;
  document.querySelectorAll("article").forEach(draw);
}

async function ask(path, options) {
  const sent = key;
  const headers = { ...options.headers };
  // Headers are made of bytes: a key in UTF-8, as the service has it.
  if (sent) headers["Authorization"] = `Bearer ${String.fromCharCode(...new TextEncoder().encode(sent))}`;
  const response = await fetch(path, { ...options, headers });
  const refused = response.status === 401;
  if (refused && sent !== key) return ask(path, options); // with the key given since
  element("key-form").hidden = !refused;
  markKey(refused && sent !== "");
  return response;
}

function markKey(wrong) {
  const [field, error] = [element("key"), element("key-error")];
  if (wrong === !error.hidden) return;
  error.hidden = !wrong;
  if (wrong) {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", error.id);
    field.select();
    say(error.textContent);
  } else {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
    if (status.textContent === error.textContent) say("");
  }
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `status ${response.status}`;
  }
}

// Pictures in

function add(files) {
  const crops = document.querySelector("input[name=crops]:checked").value;
  for (const file of [...files].reverse()) {
    const card = makeCard(file);
    results.prepend(card);
    queue.unshift({ file, card, crops });
  }
  next();
}

function makeCard(file) {
  const card = element("card").content.firstElementChild.cloneNode(true);
  const name = file.name || "pasted picture";
  card.setAttribute("aria-label", name);
  card.querySelector(".name").textContent = name;
  const image = card.querySelector("img");
  image.alt = name;
  image.addEventListener("error", () => {
    image.hidden = true;
    card.querySelector(".no-preview").hidden = false;
  });
  image.addEventListener("load", () => draw(card));
  image.src = URL.createObjectURL(file);
  return card;
}

function next() {
  while (running < AT_A_TIME && queue.length) {
    running += 1;
    answer(queue.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function answer(picture, retries = RETRIES) {
  const { file, card, crops } = picture;
  const message = card.querySelector(".message");
  const withMaps = hasMaps && crops === "1";
  message.textContent = "Looking …";
  const begin = performance.now();
  let response;
  try {
    response = await ask(`classify?crops=${crops}&activation_map=${withMaps}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
  } catch {
    return refuse(card, "The service does not answer.");
  }
  if (response.status === 401) {
    message.textContent = "Waiting for the API key …";
    waiting.push(picture);
    element("key").focus();
    return undefined;
  }
  if (response.status === 503 && retries > 0) {
    message.textContent = "The service is busy; trying again …";
    await new Promise((done) => setTimeout(done, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
    return answer(picture, retries - 1);
  }
  if (!response.ok) {
    const why = await reason(response);
    if (response.status === 400 && withMaps && why.includes("activation map")) {
      hasMaps = false;
      return answer(picture, retries);
    }
    return refuse(card, why.replace(/^picture: /, ""));
  }
  return show(card, await response.json(), performance.now() - begin);
}

const waiting = [];

function refuse(card, why) {
  const message = card.querySelector(".message");
  message.textContent = why;
  message.classList.add("error");
  say(`${card.getAttribute("aria-label")}: ${why}`);
}

// Answers out

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function show(card, found, milliseconds) {
  card.querySelector(".message").hidden = true;
  const list = card.querySelector(".classes");
  list.hidden = false;
  found.predictions.forEach((prediction, rank) => {
    const map = prediction.activation_map;
    const row = document.createElement(map ? "button" : "div");
    row.className = "class";
    row.style.setProperty("--share", `${Math.max(100 * prediction.probability, 0.4)}%`);
    row.append(text("label", prediction.label), text("percent", percent(prediction.probability)));
    if (map) {
      row.type = "button";
      row.setAttribute("aria-pressed", "false");
      row.addEventListener("click", () => select(card, row, prediction));
      if (rank === 0) select(card, row, prediction);
    }
    const item = document.createElement("li");
    item.append(row);
    list.append(item);
  });
  const times = card.querySelector(".times");
  const { queue_ms: queued, decode_ms: decoded, inference_ms: inferred } = found.timings;
  times.hidden = false;
  times.textContent =
    `${milliseconds.toFixed(0)} ms in all: waiting ${queued.toFixed(1)}, ` +
    `decoding ${decoded.toFixed(1)}, network ${inferred.toFixed(1)}`;
  const [first] = found.predictions;
  say(`${card.getAttribute("aria-label")}: ${first.label}, ${percent(first.probability)}`);
}

function text(kind, content) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = content;
  return span;
}

function say(sentence) {
  status.textContent = sentence;
}

// The class activation map

function select(card, row, prediction) {
  const shown = row.getAttribute("aria-pressed") === "true";
  for (const other of card.querySelectorAll("button.class")) other.setAttribute("aria-pressed", "false");
  row.setAttribute("aria-pressed", String(!shown));
  card.map = shown ? null : prediction.activation_map;
  const legend = card.querySelector(".legend");
  legend.hidden = false;
  card.querySelector(".scale").hidden = shown;
  card.querySelector(".legend-text").textContent = shown
    ? "Choose a class to see where it is."
    : `What speaks for “${prediction.label}”, from little to most`;
  draw(card);
}

function draw(card) {
  const image = card.querySelector("img");
  const canvas = card.querySelector("canvas");
  if (!image.complete || !image.naturalWidth || !model) return; // it is drawn when both are there
  if (!model.input.exif) image.style.imageOrientation = "none";
  const [width, height] = [image.clientWidth, image.clientHeight];
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.style.left = `${image.offsetLeft}px`;
  canvas.style.top = `${image.offsetTop}px`;
  if (!card.map) return;
  // The network sees the square in the middle: crop / resize of the shorter side.
  const side = (Math.min(canvas.width, canvas.height) * model.input.crop) / model.input.resize;
  const [left, top] = [(canvas.width - side) / 2, (canvas.height - side) / 2];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(paint(card.map), left, top, side, side);
  if (side < Math.max(canvas.width, canvas.height) - 2) {
    context.strokeStyle = "rgb(255 255 255 / 80%)";
    context.lineWidth = ratio;
    context.setLineDash([4 * ratio, 4 * ratio]);
    context.strokeRect(left + ratio / 2, top + ratio / 2, side - ratio, side - ratio);
  }
}

function paint(map) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [map[0].length, map.length];
  const values = map.flat();
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const context = small.getContext("2d");
  const pixels = context.createImageData(small.width, small.height);
  values.forEach((value, index) => {
    const place = ((value - low) / span) * (SCALE.length - 1);
    const step = Math.min(Math.floor(place), SCALE.length - 2);
    const share = place - step;
    const mixed = SCALE[step].map((part, channel) => part * (1 - share) + SCALE[step + 1][channel] * share);
    pixels.data.set([mixed[0], mixed[1], mixed[2], 255 * mixed[3]], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return small;
}

// What people do

element("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});

const drop = element("drop");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    add(event.clipboardData.files);
  }
});
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = element("key").value;
  markKey(false); // now, so that the same words said of two keys are two announcements
  queue.push(...waiting.splice(0));
  introduce();
  next();
});
window.addEventListener("resize", () => document.querySelectorAll("article").forEach(draw));

introduce();

// Keeps the page fresh: fetches the parts that the node renders and swaps in those that changed, at once when the node
// tells of an event, else every few seconds. Nothing from the node is ever built into markup here.
"use strict";

const REFRESH_MS = 2000;
const SOON_MS = 150;
const SAMPLES = 60;
// A node that has not answered by then does not answer.
const ANSWER_MS = 15000;

const byId = (id) => document.getElementById(id);

// ---- asking the node ----

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  if (answer.status === 401 && !byId("sign-in")) location.reload();
  return answer;
}

async function askJson(path, method, body) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const answer = await ask(path, options);
  if (answer.ok) return answer.status === 204 ? null : (await answer.json()).data;
  throw new Error(await explain(answer));
}

async function explain(answer) {
  return sentence(await answer.text(), answer.status);
}

function sentence(text, status) {
  try {
    const { error, hint } = JSON.parse(text);
    return [error, hint].filter(Boolean).map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`).join(" ");
  } catch {
    return `The node answered ${status}.`;
  }
}

// ---- swapping parts ----

// What each part was when it was swapped in, without the words of its times, which change all the time by themselves.
const swapped = new Map();
const withoutTimes = (html) => html.replace(/(<time [^>]*>)[^<]*/g, "$1");

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const old = byId(part.id);
    if (!old) continue;
    for (const { name, value } of part.attributes) old.setAttribute(name, value);
    const content = withoutTimes(part.innerHTML);
    if (swapped.get(part.id) === content || isSelected(old)) continue;
    swapped.set(part.id, content);
    const scrolled = old.querySelector(".scroll")?.scrollLeft;
    const focused = old.contains(document.activeElement) ? target(document.activeElement) : null;
    old.replaceChildren(...part.childNodes);
    if (scrolled) old.querySelector(".scroll")?.scrollTo({ left: scrolled });
    if (focused) [...old.querySelectorAll("a, button")].find((e) => target(e) === focused)?.focus({ preventScroll: true });
  }
  tellTimes();
}

// What a link or button is about: the same before and after a swap.
function target(element) {
  const { forget, invite, library, decide, hold, device, endpoint, act, folder } = element.dataset;
  return (
    forget ?? (invite && `${invite} ${library}`) ?? (decide && `${decide} ${hold}`) ?? (device && `${device} ${endpoint}`) ??
    (act && `${act} ${folder}`) ?? element.getAttribute("href")
  );
}

// A part in which someone selects text stays as it is until they are done.
function isSelected(part) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(part, true);
}

let refreshing = false;
let again = false;
let shownSeq = null;

async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  try {
    const answer = await ask("page/live", { signal: AbortSignal.timeout(ANSWER_MS) });
    if (!answer.ok) throw new Error(await explain(answer));
    const html = await answer.text();
    if (!byId("offline").hidden) onAnswerAgain();
    swap(html);
    answeredMs = Date.now();
    sample();
    const { seq } = byId("node").dataset;
    if (shownSeq !== null && seq !== shownSeq) {
      swap(await (await ask("page/recent", { signal: AbortSignal.timeout(ANSWER_MS) })).text());
    }
    shownSeq = seq;
  } catch {
    onSilence();
  } finally {
    refreshing = false;
    if (again) {
      again = false;
      soon();
    }
  }
}

let answeredMs = Date.now();

// Says nothing of the node that it did not say itself just now: neither that it is in sync nor that anything moves.
function onSilence() {
  const since = new Date(answeredMs).toLocaleTimeString();
  byId("offline-text").textContent = `This node has not answered since ${since}. What this page shows was so then. Trying again…`;
  if (!byId("offline").hidden) return;
  byId("offline").hidden = false;
  document.body.classList.add("offline");
  for (const claim of document.querySelectorAll("[data-claim]")) claim.textContent = "not known";
  for (const id of ["transfers", "actors"]) byId(id).textContent = "Not known.";
  samples.length = 0;
  for (const line of byId("graph").children) line.removeAttribute(line.hasAttribute("d") ? "d" : "points");
  byId("graph-max").textContent = "";
}

function onAnswerAgain() {
  byId("offline").hidden = true;
  document.body.classList.remove("offline");
  swapped.clear();
}

let pending = null;
function soon() {
  pending ??= setTimeout(() => {
    pending = null;
    refresh();
  }, SOON_MS);
}

// ---- times ----

function ago(ms) {
  const secs = Math.max(0, Math.floor((Date.now() - skewMs - ms) / 1000));
  if (secs === 0) return "now";
  if (secs < 60) return `${secs}s ago`;
  if (secs < 3600) return `${Math.floor(secs / 60)}m ago`;
  if (secs < 86400) return `${Math.floor(secs / 3600)}h ago`;
  return `${Math.floor(secs / 86400)}d ago`;
}

// How far this machine's clock is ahead of the node's; less than a few seconds is only the way here.
let skewMs = 0;

function tellTimes() {
  const ahead = Date.now() - Number(byId("head").dataset.now);
  if (Math.abs(ahead) > 30000 && Math.abs(ahead - skewMs) > 30000) skewMs = ahead;
  for (const time of document.querySelectorAll("time")) {
    const ms = Number(time.dataset.ms ?? Date.parse(time.dateTime));
    if (!Number.isFinite(ms)) continue;
    const text = ago(ms);
    if (time.textContent !== text) time.textContent = text;
    time.title = new Date(ms).toLocaleString();
  }
}

// ---- the graph ----

const samples = [];

function sample() {
  const { send, receive } = byId("traffic").dataset;
  samples.push({ at: Date.now(), send: Number(send), receive: Number(receive) });
  const since = Date.now() - SAMPLES * REFRESH_MS;
  while (samples.length > 1 && samples[0].at < since) samples.shift();
  const top = Math.max(1024, ...samples.map((s) => Math.max(s.send, s.receive)));
  const x = (s) => (240 * (1 - (Date.now() - s.at) / (SAMPLES * REFRESH_MS))).toFixed(1);
  const y = (rate) => (62 - (60 * rate) / top).toFixed(1);
  const points = (key) => samples.map((s) => `${x(s)},${y(s[key])}`).join(" ");
  const graph = byId("graph");
  graph.querySelector(".line.receive").setAttribute("points", points("receive"));
  graph.querySelector(".line.send").setAttribute("points", points("send"));
  const area = `M${x(samples[0])},64 L${points("receive").replaceAll(" ", " L")} L${x(samples.at(-1))},64 Z`;
  graph.querySelector(".area").setAttribute("d", area);
  byId("graph-max").textContent = `top ${bytes(top)}/s`;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

// ---- adding files ----

// Uploads at once: the store makes several small ones durable together.
const UPLOADS_MAX = 4;
// Files that one drop may bring; more than that is work for `can-sync put -r`.
const FILES_MAX = 50000;
// Uploads that failed and are still shown.
const FAILURES_SHOWN = 20;

const waiting = [];
let uploads = 0;
let stored = 0;
let named = 0;
let unnamed = 0;
let known = 0;
let failed = 0;
// Drops whose folders are still looked through, and how often that was stopped.
let looking = 0;
let stopped = 0;

function add(files) {
  for (const file of files) waiting.push(file);
  while (uploads < UPLOADS_MAX && waiting.length > 0) upload(waiting.shift());
}

// Text of files and strangers as one line that says what it is, as the node shows it.
const visible = (text) =>
  text.replace(/[\p{Cc}\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu,
    (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

function uploadRow(text) {
  const row = document.createElement("li");
  const name = document.createElement("bdi");
  name.textContent = visible(text);
  row.append(name);
  byId("uploads").append(row);
  return row;
}

function fail(row, text) {
  failed += 1;
  const result = document.createElement("span");
  result.className = "bad";
  result.textContent = text;
  row.querySelector("progress")?.remove();
  row.classList.add("failed");
  row.append(result);
  const shown = byId("uploads").querySelectorAll(".failed");
  if (shown.length > FAILURES_SHOWN) shown[0].remove();
}

async function upload(file) {
  uploads += 1;
  tellUploads();
  const row = uploadRow(`${file.name} (${bytes(file.size)})`);
  const progress = document.createElement("progress");
  progress.max = 1;
  progress.value = 0;
  progress.setAttribute("aria-label", visible(file.name));
  row.append(progress);
  try {
    await readable(file);
    const outcome = await send(file, (share) => (progress.value = share));
    if (outcome === "new") stored += 1;
    else if (outcome === "named") named += 1;
    else known += 1;
    if (outcome === "unnamed") unnamed += 1;
    row.remove();
  } catch (error) {
    fail(row, error.message);
  }
  uploads -= 1;
  tellUploads();
  add([]);
  soon();
}

// A folder that came as if it were a file, and a file that went or may not be read, cannot be read.
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("It cannot be read: it is a folder, or was changed, moved or locked since it was chosen.");
  }
}

// Says what became of it once the node has stored it.
function send(file, onProgress) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    // The name goes with the file alone: as a field of its own, a line break in it would come out as another.
    if (file.lastModified >= 0 && file.lastModified < Date.UTC(9999)) form.append("modified_at", new Date(file.lastModified).toISOString());
    form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onload = () => {
      if (request.status === 200 || request.status === 201) resolve(outcome(request));
      else reject(new Error(sentence(request.responseText, request.status)));
    };
    request.onerror = () => reject(new Error("The connection broke off."));
    request.open("POST", "store/ingest");
    request.send(form);
  });
}

function outcome({ status, responseText }) {
  if (status === 201) return "new";
  try {
    const { name_outcome: name } = JSON.parse(responseText).data;
    return { added: "named", left_out: "unnamed" }[name] ?? "known";
  } catch {
    // Another service may say less.
    return "known";
  }
}

function tellUploads() {
  const files = (count) => (count === 1 ? "1 file" : `${count} files`);
  const said = [];
  if (stored > 0) said.push(`${files(stored)} stored`);
  if (named > 0) said.push(`${files(named)} here already, under another name: both are kept`);
  if (known > 0) said.push(`${files(known)} here already`);
  if (unnamed > 0) said.push(`no room for ${unnamed === 1 ? "the name" : "the names"} of ${files(unnamed)}`);
  if (failed > 0) said.push(`${files(failed)} not stored`);
  const left = uploads + waiting.length;
  if (left > 0) said.push(`${files(left)} to go${looking > 0 ? ", and more" : ""}`);
  // What came of it stays until there is something new to say.
  if (said.length > 0) byId("uploads-summary").textContent = `${said.join(", ")}.`;
  byId("uploads-stop").hidden = waiting.length === 0;
  if (left === 0 && looking === 0) stored = named = unnamed = known = failed = 0;
}

function stopUploads() {
  waiting.length = 0;
  stopped += looking > 0 ? 1 : 0;
  tellUploads();
}

// Takes the files of what was dropped, those of folders too, however deep. What was dropped must be asked for its entries at
// once: after the event it is gone.
async function addDropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (entries.length === 0 || entries.some((entry) => !entry)) {
    add(transfer.files);
    return;
  }
  let count = 0;
  const folders = entries.filter((entry) => entry.isDirectory);
  looking += 1;
  const stops = stopped;
  for (const entry of entries) {
    for await (const file of filesIn(entry)) {
      if (stopped !== stops) break;
      count += 1;
      if (count > FILES_MAX) {
        fail(uploadRow(entry.name), `More than ${FILES_MAX} files: use "can-sync put -r" for the rest.`);
        break;
      }
      add([file]);
    }
  }
  looking -= 1;
  if (count === 0 && folders.length > 0) fail(uploadRow(folders[0].name), "There is no file in this folder.");
  tellUploads();
}

// What of it cannot be read is told, and the rest goes on.
async function* filesIn(entry) {
  try {
    if (entry.isFile) {
      yield await new Promise((resolve, reject) => entry.file(resolve, reject));
      return;
    }
    const reader = entry.createReader();
    const next = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    // A folder is read in parts; the last one is empty.
    for (let some = await next(); some.length > 0; some = await next()) {
      for (const inner of some) yield* filesIn(inner);
    }
  } catch {
    fail(uploadRow(entry.fullPath), "It cannot be read.");
    tellUploads();
  }
}

function watchDrops() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  document.addEventListener("drop", (event) => {
    mark(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    addDropped(event.dataTransfer);
  });
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      add(event.target.files);
      event.target.value = "";
    });
  }
  byId("uploads-stop").addEventListener("click", stopUploads);
}

// ---- buttons and forms ----

function say(element, mood, text) {
  element.className = `result ${mood}`;
  element.textContent = text;
}

async function onCopy(button) {
  const input = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(input.value);
  } catch {
    // Without a secure context there is no clipboard: select, so that the usual keys copy it.
    input.select();
    return;
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

async function onForget(button) {
  if (!confirm("Forget this peer and close its session?")) return;
  button.blur();
  try {
    await askJson(`peers/${encodeURIComponent(button.dataset.forget)}`, "DELETE");
  } catch (error) {
    alert(error.message);
  }
  soon();
}

const decisions = {
  confirm: ["Delete these here as well? They stay in the trash for 30 days.", "deletions/confirm", {}],
  reject: ["Keep these here, though they are deleted elsewhere?", "deletions/reject", {}],
  restore: ["Keep these here, and bring them back where they were deleted?", "deletions/reject", { restore: true }],
};

async function onDecide(button) {
  const [question, path, more] = decisions[button.dataset.decide];
  if (!confirm(question)) return;
  button.disabled = true;
  try {
    await askJson(path, "POST", { hold: button.dataset.hold, ...more });
  } catch (error) {
    alert(error.message);
  }
  button.disabled = false;
  soon();
}

const verdicts = {
  approve: (name) => `Let ${name} in? It gets everything that this node has, and what it puts comes here.`,
  deny: (name) => `Shut ${name} out of everything?`,
};

async function onDevice(button) {
  const { device, endpoint, name } = button.dataset;
  if (!confirm(verdicts[device](name))) return;
  button.disabled = true;
  try {
    await askJson(`devices/${encodeURIComponent(endpoint)}/${device}`, "POST");
  } catch (error) {
    alert(error.message);
  }
  button.disabled = false;
  soon();
}

// What is asked before a folder does something that is not easily taken back.
const folderQuestions = {
  confirm: (name) => `Remove the files of '${name}' that went elsewhere? What they had stays in the history.`,
  trash: (name) => `Move the files of '${name}' that were removed elsewhere to the trash, for 30 days?`,
  remove: (name) => `Keep '${name}' alike no longer? Every file stays where it is.`,
};

async function onFolder(button) {
  const { act, folder, name } = button.dataset;
  const question = folderQuestions[act];
  if (question && !confirm(question(name))) return;
  button.disabled = true;
  const path = `folders/${encodeURIComponent(folder)}`;
  try {
    if (act === "remove") await askJson(path, "DELETE");
    else await askJson(`${path}/actions`, "POST", { action: act });
  } catch (error) {
    alert(error.message);
  }
  button.disabled = false;
  soon();
}

async function onVerify(button) {
  button.disabled = true;
  try {
    await askJson("verify", "POST");
  } catch (error) {
    alert(error.message);
  }
  button.disabled = false;
  soon();
}

// Runs the work of a form, which says what came of it; nothing is sent twice.
async function submitted(event, resultId, work) {
  event.preventDefault();
  const form = event.target;
  const result = byId(resultId);
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const text = await work(new FormData(form));
    if (text) {
      say(result, "good", text);
      form.reset();
    }
  } catch (error) {
    say(result, "bad", error.message);
  } finally {
    button.disabled = false;
    soon();
  }
}

const held = ({ assets, bytes: size }) => `${assets} ${assets === 1 ? "asset" : "assets"} (${bytes(size)})`;

async function dialPeer(fields) {
  const { endpoint_id } = await askJson("peers", "POST", { ticket: fields.get("ticket").trim() });
  return `Connecting to ${endpoint_id.slice(0, 10)}…`;
}

async function addFolder(fields) {
  const name = fields.get("name").trim() || undefined;
  const made = await askJson("folders", "POST", { path: fields.get("path").trim(), name, mode: fields.get("mode") });
  if (!made.folder) return `${visible(made.path)}: ${visible(made.reason ?? "it is bound later")}`;
  const room = made.room && !made.room.shares_blocks ? ` Its files take ${bytes(made.room.bytes)} in the store as well.` : "";
  return `${visible(made.path)} is the folder '${visible(made.name)}' now.${room}`;
}

async function createLibrary(fields) {
  const text = (name) => fields.get(name).trim() || undefined;
  const tags = (text("tags") ?? "").split(",").map((tag) => tag.trim()).filter(Boolean);
  const filter = { mime_prefix: text("mime_prefix"), tags, application: text("application"), user: text("user") };
  const preview = await askJson("libraries/preview", "POST", { filter });
  if (!confirm(`Share ${held(preview)} as '${visible(fields.get("name"))}', and what comes to match later?`)) return null;
  const made = await askJson("libraries", "POST", { name: fields.get("name"), filter });
  return `Made with ${held(made.counts)}. Now invite somebody.`;
}

async function joinLibrary(fields) {
  const ticket = fields.get("ticket").trim();
  const preview = await askJson("join/preview", "POST", { ticket });
  if (!confirm(`Join '${visible(preview.name)}' with ${held(preview.counts)} when the ticket was issued?`)) return null;
  const ours = preview.matching;
  const share_existing =
    ours.assets > 0 && confirm(`Share what is here already and matches, ${held(ours)}, with its members? Cancel joins without that.`);
  const joined = await askJson("join", "POST", { ticket, share_existing });
  return `Joined ${visible(joined.name)}. Looking for its members…`;
}

async function onInvite(button) {
  const result = byId("invite-result");
  button.disabled = true;
  try {
    const terms = { access: button.dataset.invite, expires_secs: 86400, uses: 1 };
    const path = `libraries/${encodeURIComponent(button.dataset.library)}/invite`;
    const { ticket, qr } = await askJson(path, "POST", terms);
    byId("invited-ticket").value = ticket;
    const what = button.dataset.invite === "write" ? "read and write into" : "read";
    byId("invited-what").textContent = `Ticket to ${what} '${button.dataset.name}', for one machine and one day`;
    const code = byId("invited-code");
    code.toggleAttribute("hidden", !qr);
    if (qr) {
      code.setAttribute("viewBox", `0 0 ${qr.size} ${qr.size}`);
      code.querySelector("path").setAttribute("d", qr.path);
    }
    byId("invited").hidden = false;
    say(result, "good", "");
  } catch (error) {
    say(result, "bad", error.message);
  }
  button.disabled = false;
}

async function onSignIn(event) {
  event.preventDefault();
  try {
    await askJson("session", "POST", { token: event.target.token.value.trim() });
    location.reload();
  } catch (error) {
    say(byId("sign-in-result"), "bad", error.message);
  }
}

// ---- start ----

const EVENTS = [
  "hello", "reset", "peer_connected", "peer_lost", "peer_stale", "asset_received", "asset_failed", "damaged", "healed",
  "in_sync", "deletions_held", "folder_conflict", "folder_missing", "folder_held", "actor_restarted",
];

// A browser opens few connections to one server, and an event stream keeps one for as long as its page is open. So one page of
// all that show this node has the stream, and tells the others.
function watchEvents() {
  const name = `can-sync ${new URL(".", location.href).pathname}`;
  const channel = new BroadcastChannel(name);
  channel.onmessage = (message) => onEvent(message.data);
  const tell = (event) => {
    onEvent(event);
    channel.postMessage(event);
  };
  if (navigator.locks) {
    // Held until this page is gone; then the next one that waits has it.
    navigator.locks.request(name, () => new Promise(() => streamEvents(tell)));
    return;
  }
  // Without locks (they need HTTPS or this machine), a page has the stream while somebody looks at it.
  let stream = null;
  const follow = () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
    } else {
      stream ??= streamEvents(tell);
    }
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

function onEvent({ boot }) {
  // The node was started again, perhaps as a newer version: so is the page.
  if (boot && boot !== document.body.dataset.boot) location.reload();
  soon();
}

// Follows the node's events until it is closed.
function streamEvents(tell) {
  let source = null;
  let retry = null;
  const open = () => {
    source = new EventSource("events");
    for (const name of EVENTS) {
      source.addEventListener(name, ({ data }) => tell(name === "hello" ? { boot: JSON.parse(data).boot } : {}));
    }
    source.onerror = () => {
      tell({});
      // A browser tries again by itself unless the answer was an error.
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, 5000);
    };
  };
  open();
  const close = () => {
    clearTimeout(retry);
    source.close();
  };
  return { close };
}

function start() {
  const signIn = byId("sign-in");
  if (signIn) {
    signIn.addEventListener("submit", onSignIn);
    return;
  }
  byId("dial").addEventListener("submit", (event) => submitted(event, "dial-result", dialPeer));
  byId("add-folder").addEventListener("submit", (event) => submitted(event, "add-folder-result", addFolder));
  byId("create-library").addEventListener("submit", (event) => submitted(event, "create-result", createLibrary));
  byId("join-library").addEventListener("submit", (event) => submitted(event, "join-result", joinLibrary));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.copy) onCopy(button);
    else if (button.dataset.forget) onForget(button);
    else if (button.dataset.invite) onInvite(button);
    else if (button.dataset.decide) onDecide(button);
    else if (button.dataset.device) onDevice(button);
    else if (button.dataset.act) onFolder(button);
    else if (button.id === "verify") onVerify(button);
  });
  watchDrops();
  watchEvents();
  tellTimes();
  refresh();
  setInterval(() => {
    if (!document.hidden) refresh();
  }, REFRESH_MS);
  setInterval(tellTimes, 1000);
  document.addEventListener("visibilitychange", soon);
}

start();

// The socket to the server: requests, and what comes back for each.

export class Line {
  constructor(status) {
    this.status = status;
    this.number = 0;
    this.waiting = new Map(); // id -> handlers
    this.slots = new Map(); // slot -> id
    this.unsent = [];
    this.connect();
  }

  connect() {
    const secure = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${secure}://${location.host}/work`);
    this.socket.onopen = () => {
      this.status.textContent = "";
      for (const text of this.unsent.splice(0)) this.socket.send(text);
    };
    this.socket.onmessage = (event) => this.take(JSON.parse(event.data));
    this.socket.onclose = () => {
      this.status.textContent = "The server does not answer; trying again …";
      for (const handlers of this.waiting.values()) handlers.error?.({ message: "The connection was lost." });
      this.waiting.clear();
      setTimeout(() => this.connect(), 1500);
    };
  }

  // Handlers by event: progress, picture, preview, note, result, error. A request takes the place of the one before it in its slot.
  ask(op, args, handlers, slot = op) {
    const before = this.slots.get(slot);
    if (before !== undefined) this.waiting.delete(before);
    const id = ++this.number;
    this.slots.set(slot, id);
    this.waiting.set(id, handlers);
    this.send({ id, op, slot, arguments: args });
  }

  cancel(slot) {
    this.waiting.delete(this.slots.get(slot));
    this.send({ cancel: slot });
  }

  send(message) {
    const text = JSON.stringify(message);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(text);
    else this.unsent.push(text);
  }

  take(message) {
    const handlers = this.waiting.get(message.id);
    if (!handlers) return;
    if (message.event === "result" || message.event === "error") this.waiting.delete(message.id);
    handlers[message.event]?.(message);
  }
}

// An array of the server: { shape, kind, data }.
export function unpack(array) {
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  const values = array.kind === "uint8" ? bytes : new Float32Array(bytes.buffer);
  return { shape: array.shape, values };
}

// A select's options, pairs [value, text] in their order; the first is chosen unless another one is, and is there.
export function fill(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

// The same, under the headings that `families` has for some of the values, in the order in which they come.
export function grouped(select, pairs, families, chosen) {
  fill(select, pairs, chosen);
  const groups = new Map();
  for (const option of [...select.options]) {
    const family = families[option.value];
    if (!family) continue;
    if (!groups.has(family)) groups.set(family, Object.assign(document.createElement("optgroup"), { label: family }));
    groups.get(family).append(option);
  }
  select.append(...groups.values());
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

// The classes of a model as such pairs.
export const classes = (model, none) => [["", none], ...(model?.classes ?? []).map((name, k) => [String(k), name])];

export function later(run, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, wait);
  };
}

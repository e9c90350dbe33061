/* Keeps an open page up to date, and lets it say so when that is not possible.

First: it listens for news only while it can be seen.

A browser has six connections to a host for all its tabs, and a page that listens keeps one: the seventh tab would wait
for ever. So a hidden page lets go of its own; seen again it opens another, and is told at once if it missed something,
as the address says what it knew. htmx's extension makes its sources by `htmx.createEventSource`. */
"use strict";

class SeenSource extends EventTarget {
  #url;
  #source = null;
  #closed = false;
  #follow = () => (document.hidden ? this.#pause() : this.#open());

  constructor(url) {
    super();
    this.#url = url;
    document.addEventListener("visibilitychange", this.#follow);
    this.#follow();
  }

  get readyState() {
    return this.#closed ? EventSource.CLOSED : this.#source ? this.#source.readyState : EventSource.CONNECTING;
  }

  close() {
    this.#closed = true;
    document.removeEventListener("visibilitychange", this.#follow);
    this.#pause();
  }

  #open() {
    if (this.#source) return;
    const source = (this.#source = new EventSource(this.#url));
    source.addEventListener("change", (event) => this.dispatchEvent(new MessageEvent("change", { data: event.data })));
    source.onopen = (event) => this.onopen?.(event);
    source.onerror = (event) => {
      if (source.readyState === EventSource.CLOSED) this.close(); // it was refused; the extension makes another one
      this.onerror?.(event);
    };
  }

  #pause() {
    this.#source?.close();
    this.#source = null;
  }
}

htmx.createEventSource = (url) => new SeenSource(url);

/* Second: a page that cannot be loaded again says so.

Else it would show an old status for ever as if it were the present one: htmx leaves the page as it is when the answer is
an error or does not come, and shows nothing at all if the answer is another page, such as a proxy's login. The notice is in
every page that changes, hidden; each answer brings the time for the next one, by the server's clock.

And the page does not change under somebody's hands: while a button of the mouse is down or text is selected, the new
contents wait. What is equal is not swapped at all. */

const stale = document.querySelector("#stale");
let shown = document.querySelector("#live")?.innerHTML; // as the server sent it: htmx has not touched it yet
let pressed = false;
let held = false;

function isSelected() {
  const selection = getSelection();
  const live = document.querySelector("#live");
  return !selection.isCollapsed && live !== null && selection.containsNode(live, true);
}

function outOfDate(why) {
  for (const each of stale.querySelectorAll("[data-why]")) each.hidden = each.dataset.why !== why;
  stale.hidden = false;
}

function upToDate(made) {
  stale.querySelector("time").replaceWith(made);
  stale.hidden = true;
  held = false;
}

function release() {
  if (!held || pressed) return;
  if (isSelected()) return outOfDate("held");
  held = false;
  htmx.trigger("#live", "again");
}

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (!detail.shouldSwap) return; // an error, of which htmx:responseError tells
  const page = new DOMParser().parseFromString(detail.serverResponse, "text/html");
  const live = page.querySelector("#live")?.innerHTML;
  const made = page.querySelector("#stale time");
  detail.shouldSwap = false;
  if (live === undefined || made === null) {
    outOfDate("failed");
  } else if (live === shown) {
    upToDate(made);
  } else if (pressed || isSelected()) {
    held = true;
    release();
  } else {
    detail.shouldSwap = true;
    shown = live;
    upToDate(made);
  }
});
for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, () => outOfDate("failed"));
}
addEventListener("pointerdown", () => (pressed = true));
function up() {
  pressed = false;
  release();
}
for (const name of ["pointerup", "pointercancel", "contextmenu", "dragend", "blur"]) addEventListener(name, up);
addEventListener("pointermove", ({ buttons }) => {
  if (pressed && buttons === 0) up(); // its pointerup went elsewhere, as of a scrollbar
});
document.addEventListener("selectionchange", release);

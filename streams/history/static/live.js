/* A page listens for news only while it can be seen.

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

/*
 * Keeps the admin's pages of the pools up to date. Without it they are right at the moment they were loaded.
 *
 * The page asks for itself, with the filters and the page number of its own address, and takes over what differs.
 * So there is one place that turns numbers into words, and a project needs no address but the admin's.
 *
 * data-live           the part of a page that is taken over; data-interval: seconds, data-stale: the server has old data
 * data-key            of elements in a list: what they are about, so that a row stays the row of the same lease
 * data-live-keep      belongs to the reader: left as it is (filters, the bar)
 * data-live-hold      nothing moves while the pointer is on it (actions)
 * data-live-say       said to a screen reader when it changes
 * data-live-bar       shown by this script: how old the data are; its data-text-* have the words
 */
(() => {
  "use strict";

  const TIMEOUT = 10; // seconds until an answer counts as none
  const SLOWEST = 60; // seconds between two attempts at most
  const OLD = 2.5; // intervals without an answer after which the data count as old

  const root = document.querySelector("[data-live]");
  const bar = root && root.querySelector("[data-live-bar]");
  if (!bar) {
    return;
  }
  const words = bar.querySelector("[data-live-text]");
  const announcer = bar.querySelector("[data-live-announcer]");
  const toggle = bar.querySelector("[data-live-toggle]");
  const interval = Number(root.dataset.interval) || 5;

  let received = Date.now();
  let failures = 0;
  let reason = ""; // why there was no answer: the name of a text
  let paused = false;
  let ended = false;
  let asking = false;
  let timer = 0;

  function text(name, seconds) {
    return (bar.getAttribute("data-text-" + name) || "").replace("{seconds}", seconds);
  }

  // -- what the reader sees ---------------------------------------------------------------------------------------

  function show() {
    const age = Math.round((Date.now() - received) / 1000);
    const old = age > OLD * interval;
    let state = "fresh";
    if (ended) {
      state = reason;
    } else if (paused) {
      state = "paused";
    } else if (failures) {
      state = reason;
    } else if (held()) {
      state = "held";
    }
    const stale = ended || failures > 0 || old || root.dataset.stale === "true";
    put(words, text(state, age));
    if (bar.dataset.state !== state) {
      bar.dataset.state = state;
      // Once per change: a screen reader that counted seconds could not be listened to.
      put(announcer, state === "fresh" ? "" : text(state, age));
    }
    root.toggleAttribute("data-outdated", stale);
    put(toggle, text(paused ? "resume" : "pause"));
    toggle.hidden = ended;
  }

  function put(element, value) {
    if (element.textContent !== value) {
      element.textContent = value;
    }
  }

  /* Text that is being copied, and an action under the pointer, must not move away. */
  function held() {
    const selection = document.getSelection();
    const selected = !selection.isCollapsed && root.contains(selection.anchorNode);
    return selected || root.querySelector("[data-live-hold]:hover") !== null;
  }

  // -- asking -----------------------------------------------------------------------------------------------------

  async function ask() {
    const abort = new AbortController();
    const limit = setTimeout(() => abort.abort(), TIMEOUT * 1000);
    try {
      const answer = await fetch(location.href, {
        cache: "no-store",
        credentials: "same-origin",
        redirect: "manual", // to the log-in page
        signal: abort.signal,
      });
      if (answer.type === "opaqueredirect" || answer.status === 401) {
        end("ended");
      } else if (answer.status === 403 || answer.status === 404) {
        end("forbidden");
      } else if (!answer.ok) {
        failed("error");
      } else {
        take(await answer.text());
      }
    } catch {
      failed("unreachable");
    } finally {
      clearTimeout(limit);
    }
  }

  function take(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    const fresh = page.querySelector("[data-live]");
    if (!fresh) {
      end("ended"); // another page in this place, such as a log-in form
      return;
    }
    failures = 0;
    reason = "";
    if (paused || held()) {
      return; // and say how old that is which is shown
    }
    const said = spoken();
    const focused = document.activeElement;
    morph(root, fresh);
    if (focused !== document.activeElement) {
      root.tabIndex = -1;
      (focused.isConnected ? focused : root).focus({ preventScroll: true });
    }
    document.title = page.title;
    received = Date.now();
    if (spoken() !== said) {
      put(announcer, spoken());
    }
  }

  function spoken() {
    return Array.from(root.querySelectorAll("[data-live-say]"), (each) => each.textContent.trim()).join(" ");
  }

  function failed(why) {
    failures += 1;
    reason = why;
  }

  function end(why) {
    ended = true;
    reason = why;
  }

  async function round() {
    clearTimeout(timer);
    if (asking || ended || paused || document.hidden) {
      return;
    }
    asking = true;
    try {
      await ask();
    } finally {
      asking = false;
      show();
      wait();
    }
  }

  function wait() {
    if (!ended) {
      clearTimeout(timer);
      timer = setTimeout(round, Math.min(interval * 2 ** failures, SLOWEST) * 1000);
    }
  }

  // -- taking over ------------------------------------------------------------------------------------------------

  /* Elements stay where they can, with their focus, scroll position and open or closed details. */
  function morph(old, fresh) {
    attributes(old, fresh);
    const known = new Map();
    const wanted = new Set(Array.from(fresh.children, keyOf));
    for (const child of Array.from(old.children)) {
      if (!wanted.has(keyOf(child))) {
        child.remove();
      } else if (keyOf(child)) {
        known.set(keyOf(child), child);
      }
    }
    if (known.size) {
      // Blanks have no key: with them, a row would have to move when the one before it has gone, and lose its focus.
      [...old.childNodes, ...fresh.childNodes].filter(isBlank).forEach((node) => node.remove());
    }
    let next = old.firstChild;
    for (const child of Array.from(fresh.childNodes)) {
      const match = known.get(keyOf(child)) || (fits(next, child) ? next : null);
      if (match === null) {
        old.insertBefore(document.importNode(child, true), next);
        continue;
      }
      if (match === next) {
        next = next.nextSibling;
      } else {
        old.insertBefore(match, next);
      }
      if (match.nodeType !== Node.ELEMENT_NODE) {
        match.data = child.data;
      } else if (!mine(match)) {
        morph(match, child);
      }
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  function attributes(old, fresh) {
    const own = old.localName === "details" ? "open" : "";
    for (const { name, value } of Array.from(fresh.attributes)) {
      if (name !== own && old.getAttribute(name) !== value) {
        old.setAttribute(name, value);
      }
    }
    for (const { name } of Array.from(old.attributes)) {
      if (name !== own && !fresh.hasAttribute(name)) {
        old.removeAttribute(name);
      }
    }
  }

  function isBlank(node) {
    return node.nodeType === Node.TEXT_NODE && !node.data.trim();
  }

  function keyOf(node) {
    return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") || node.id : "";
  }

  function fits(old, fresh) {
    return old !== null && old.nodeName === fresh.nodeName && !keyOf(old) && !keyOf(fresh);
  }

  /* The reader's. Hidden fields are the page's: they say whom the button behind them is about. */
  function mine(element) {
    return element.hasAttribute("data-live-keep") || element.matches("input:not([type=hidden]), select, textarea");
  }

  // -- running ----------------------------------------------------------------------------------------------------

  toggle.addEventListener("click", () => {
    paused = !paused;
    show();
    round();
  });
  document.addEventListener("visibilitychange", round);
  addEventListener("online", round);
  addEventListener("pageshow", (event) => event.persisted && round());
  setInterval(() => document.hidden || show(), 1000);
  bar.hidden = false;
  show();
  wait();
})();

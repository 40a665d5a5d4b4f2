"use strict";
// The search of the site runs in a worker, and a browser starts none for a page that was opened from the disk. There,
// this runs the worker's script in a hidden frame of the page instead. The theme looks for this file by its name, and for
// `IFrameWorker` by its own, so that it does not load the like from another host.

if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.head.appendChild(this.frame); // before the body is there; a frame is alive in the head too
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.answer(data);
      inside.importScripts = (...scripts) =>
        scripts.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve());
      this.ready = this.load(new URL(address, location.href).href);
    }

    /** A script in the frame; the promise is kept when it has run. */
    load(address) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script");
        script.src = address;
        script.onload = () => resolve();
        script.onerror = () => reject(new Error(`cannot load ${address}`));
        this.frame.contentDocument.head.appendChild(script);
      });
    }

    /** What the page asks of the worker. */
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    /** What the worker answers. */
    answer(data) {
      const event = new MessageEvent("message", { data });
      this.onmessage?.(event);
      this.dispatchEvent(event);
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}

"use strict";
// Bokeh makes style elements. They get this page's number, used once: no other style, and no style attribute, has effect.
(() => {
  const nonce = document.currentScript.nonce || document.querySelector("style[nonce]").nonce;
  const make = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const made = make(name, options);
    if (made instanceof HTMLStyleElement) made.nonce = nonce;
    return made;
  };
})();

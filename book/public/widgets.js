// Makes the vendored widget manager at home in the site. Loaded on pages with widgets, after require.js and before it.
"use strict";

// The manager looks for its fonts beside itself, and require.js believes that to be beside the page unless told.
window.require.config({ baseUrl: new URL("vendor/", document.currentScript.src).href });

// It sets equations in labels by the interface of MathJax 2; the site has MathJax 3.
window.addEventListener("load", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
  }
});

// The handles of its sliders have no name of their own for a screen reader; the label beside them says it.
new MutationObserver(() => {
  for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const label = handle.closest(".jupyter-widgets")?.querySelector("label");
    handle.setAttribute("aria-label", label?.textContent || "value");
  }
}).observe(document.documentElement, { childList: true, subtree: true });

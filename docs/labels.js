// The theme's boxes of code buttons are landmarks: each needs a name of its own.
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((nav, i) => {
    if (!nav.hasAttribute("aria-label")) nav.setAttribute("aria-label", `Code ${i + 1}`);
  });
}).observe(document.body, { childList: true, subtree: true });

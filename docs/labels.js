// The theme leaves its search and its boxes of code buttons without names, which screen readers need.
document.querySelectorAll("[role=dialog]:not([aria-label])").forEach((box) => box.setAttribute("aria-label", "Search"));
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((nav, i) => {
    if (!nav.hasAttribute("aria-label")) nav.setAttribute("aria-label", `Code ${i + 1}`);
  });
}).observe(document.body, { childList: true, subtree: true });

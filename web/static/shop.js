// What the pages gain from JavaScript besides htmx. Nothing here is needed to shop, and nothing here keeps an order from
// happening twice: that is the server's work.
(() => {
  "use strict";

  // A form in flight is not sent again. Stopping the page must not lock it for ever. The demo shows the number of presses
  // held back.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return; // htmx sends it
    const form = event.target;
    if (form.hasAttribute("aria-busy")) {
      event.preventDefault();
      sessionStorage.held = 1 + Number(sessionStorage.held || 0);
      return;
    }
    form.setAttribute("aria-busy", "true");
    setTimeout(() => form.removeAttribute("aria-busy"), 10000);
  });

  // The second click of a double click puts nothing more into the cart.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest('form[action="/cart"] button')) event.preventDefault();
    if (event.target.closest("[data-print]")) window.print();
  });

  // A page from the browser's memory may show a cart that was ordered since.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  // The buyer has just asked to pay. If the bank wants a confirmation, now or once the provider has answered, the page
  // leads there. The back button leads to this page, which then stays. A page that has not loaded would lose its place
  // in the history.
  if (document.querySelector("[data-forward]")) {
    history.replaceState(null, "", location.pathname);
    const forward = () => {
      const bank = document.querySelector('[data-forward] a[href$="/confirm"]');
      if (!bank) return;
      document.removeEventListener("htmx:after:swap", forward);
      location.assign(bank.href);
    };
    document.addEventListener("htmx:after:swap", forward);
    window.addEventListener("load", () => setTimeout(forward));
  }

  const isForm = (event) => event.detail.ctx?.request.method === "POST";

  // Whoever goes by keyboard does not fall back to the top when the pressed button has left with its line.
  document.addEventListener("htmx:after:swap", (event) => {
    if (isForm(event) && document.activeElement === document.body) document.getElementById("main").focus();
  });

  document.addEventListener("htmx:error", (event) => {
    if (!isForm(event)) return;
    const text = document.createElement("p");
    text.className = "notice brief";
    text.textContent = "We could not reach the shop, so nothing was changed. Please try again.";
    document.getElementById("notice").replaceChildren(text);
  });

  for (const button of document.querySelectorAll("[data-print]")) button.hidden = false;
})();

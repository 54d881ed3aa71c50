// The presses that a page's script held back are attempts, too: the panel counts them.
(() => {
  "use strict";

  const form = () => document.querySelector(".again form");
  const take = () => {
    const held = sessionStorage.held || "0";
    delete sessionStorage.held;
    return held;
  };

  // Those of the pages before, such as the checkout.
  if (form() && Number(sessionStorage.held)) {
    fetch(form().action, { method: "POST", body: new URLSearchParams({ held: take() }) });
  }

  // Those of this page go with the next button.
  document.addEventListener("submit", (event) => {
    if (event.target === form()) form().elements.held.value = take();
  }, true);
})();

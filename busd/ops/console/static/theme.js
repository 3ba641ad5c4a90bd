/** Light or dark: as the system has it, or as was chosen here; remembered by the browser if it may. */

const CHOICES = { auto: "Auto", light: "Light", dark: "Dark" };

/** Make `button` go through the choices, and take up the last one. */
export function attach(button) {
  let chosen = recall();
  const show = () => {
    document.documentElement.dataset.theme = chosen;
    button.textContent = `◐ ${CHOICES[chosen]}`;
    button.setAttribute("aria-label", `Theme: ${CHOICES[chosen].toLowerCase()}. Press for the next.`);
  };
  button.addEventListener("click", () => {
    const names = Object.keys(CHOICES);
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    try {
      localStorage.setItem("busd.theme", chosen);
    } catch { /* a browser that keeps nothing */ }
    show();
  });
  show();
}

function recall() {
  try {
    const kept = localStorage.getItem("busd.theme");
    return Object.hasOwn(CHOICES, kept) ? kept : "auto";
  } catch {
    return "auto";
  }
}

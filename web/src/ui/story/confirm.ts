/** Asks before something is lost: a dialog of the browser's own, so focus and Escape are as they should be. */

/** True when the person says yes. */
export function confirm(question: string, yes: string): Promise<boolean> {
  const dialog = document.createElement("dialog");
  dialog.className = "confirm";
  const form = document.createElement("form");
  form.method = "dialog";
  const text = document.createElement("p");
  text.textContent = question;
  const buttons = document.createElement("span");
  buttons.className = "buttons";
  buttons.append(buttonOf("Keep", "", false), buttonOf(yes, "yes", true));
  form.append(text, buttons);
  dialog.append(form);
  dialog.setAttribute("aria-label", question);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

function buttonOf(label: string, value: string, strong: boolean): HTMLButtonElement {
  const button = document.createElement("button");
  button.textContent = label;
  button.value = value;
  if (strong) button.className = "strong";
  return button;
}

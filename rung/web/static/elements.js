// Making the page's elements. Whatever is said goes in as text; the page's policy admits no markup.

export const $ = (id) => document.getElementById(id);

// An element with attributes and children; texts become text, and null is left out.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const note = (...children) => el("p", { class: "note" }, ...children);

// What others wrote: its direction of writing stays inside it.
export const said = (text) => el("bdi", {}, text);

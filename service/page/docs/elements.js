// Makes an element of its name, what it has, and what is in it. Text stays text, whatever is in it.

export function h(name, properties = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...content.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

// A sentence, in which what stands between backticks is code.
export function prose(text) {
  return (text ?? "").split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

// What the widgets share; Python puts it before each of their scripts.
function element(kind, attributes = {}, ...inside) {
  const e = document.createElement(kind)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...inside)
  return e
}
const bytes = v => v instanceof DataView ? new Uint8Array(v.buffer, v.byteOffset, v.byteLength) : new Uint8Array(v ?? 0)

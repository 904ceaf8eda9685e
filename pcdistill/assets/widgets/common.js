// What the widgets share; Python puts it before each of their scripts.
function element(kind, attributes = {}, ...inside) {
  const e = document.createElement(kind)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...inside)
  return e
}
const bytes = v => v instanceof DataView ? new Uint8Array(v.buffer, v.byteOffset, v.byteLength) : new Uint8Array(v ?? 0)
// A width that is `px` in a panel of 890 pixels, and grows and shrinks with the panel within limits.
const grown = px => `clamp(${Math.round(.7*px)}px, ${(px/8.9).toFixed(3)}cqi, ${Math.round(1.6*px)}px)`
